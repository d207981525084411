"""SemanticEvaluator against Detectron2's SemSegEvaluator and numbers computed by hand."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from segzoo.evaluation import SemanticEvaluator
from segzoo.evaluation.semantic import semantic_metrics
from segzoo.utils.errors import InputError
from tests.evaluation.evaluation_data import PanopticData


@pytest.fixture
def data(tmp_path):
    return PanopticData(tmp_path / "data", num_images=6, num_classes=9)


def scores_of(labels, num_classes, seed):
    """(K, H, W) floats whose argmax is mostly `labels`, with ties and some NaN."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (num_classes, *labels.shape), generator=generator).float()
    scores += 3 * (torch.arange(num_classes)[:, None, None] == torch.from_numpy(labels).long())
    scores[torch.rand(scores.shape, generator=generator) < 0.001] = float("nan")
    return scores


def detectron2_result(data, outputs):
    peer = SemSegEvaluator(data.name, distributed=False)
    peer.reset()
    peer.process(data.dataset_dicts, outputs)
    return peer, peer.evaluate()["sem_seg"]


@pytest.mark.parametrize("scoring_threads", [0, 2])
def test_numbers_from_scores_are_exactly_those_of_detectron2(data, scoring_threads):
    outputs = [
        {"sem_seg": scores_of(labels, data.num_classes, seed)}
        for seed, labels in enumerate(data.semantic_predictions())
    ]
    evaluator = SemanticEvaluator(data.name, scoring_threads=scoring_threads)
    for entry, output in zip(data.dataset_dicts, outputs, strict=True):
        evaluator.process([entry], [output])
    metrics = evaluator.evaluate()["sem_seg"]
    peer, expected = detectron2_result(data, outputs)
    np.testing.assert_array_equal(evaluator.confusion_matrix, peer._conf_matrix)
    # Detectron2's main branch leaves classes without ground truth out of the mean, v0.6 counts them as 0.
    averaging = "ground_truth" if hasattr(peer, "_compute_boundary_iou") else "valid"
    assert metrics[f"mIoU_{averaging}"] == expected["mIoU"]
    assert metrics["fwIoU"] == expected["fwIoU"]
    assert metrics["mAcc"] == expected["mACC"]
    assert metrics["aAcc"] == expected["pACC"]
    for name in evaluator.class_names:
        np.testing.assert_array_equal(metrics[f"IoU-{name}"], expected[f"IoU-{name}"])
        np.testing.assert_array_equal(metrics[f"Acc-{name}"], expected[f"ACC-{name}"])


def test_label_maps_and_scores_give_the_same_confusion_matrix(data):
    labels = data.semantic_predictions()
    matrices = []
    for outputs in (
        [{"sem_seg_labels": torch.from_numpy(label).to(torch.int16)} for label in labels],
        [
            {"sem_seg": torch.nn.functional.one_hot(torch.from_numpy(x).long(), 9).permute(2, 0, 1)}
            for x in labels
        ],
    ):
        evaluator = SemanticEvaluator(data.name)
        evaluator.process(data.dataset_dicts, outputs)
        evaluator.evaluate()
        matrices.append(evaluator.confusion_matrix)
    np.testing.assert_array_equal(*matrices)


def test_three_averages_of_a_matrix_computed_by_hand():
    # Rows predictions, columns truth; class 2 is predicted but never true, class 3 is nowhere.
    matrix = np.zeros((5, 5), np.int64)
    matrix[0, 0], matrix[0, 1], matrix[1, 1], matrix[2, 1] = 6, 2, 1, 1
    matrix[1, 4] = 50  # on ignored pixels: counts nowhere
    metrics, per_class = semantic_metrics(matrix)
    iou = [6 / 8, 1 / 4]
    assert per_class["IoU"][:2] == pytest.approx([100 * value for value in iou])
    assert all(math.isnan(value) for value in per_class["IoU"][2:])
    assert metrics["mIoU_ground_truth"] == pytest.approx(100 * sum(iou) / 2)
    assert metrics["mIoU_valid"] == pytest.approx(100 * sum(iou) / 3)
    assert metrics["mIoU_all"] == pytest.approx(100 * sum(iou) / 4)
    assert metrics["mAcc"] == pytest.approx(100 * (1 + 1 / 4) / 2)
    assert metrics["aAcc"] == pytest.approx(100 * 7 / 10)
    assert metrics["fwIoU"] == pytest.approx(100 * (0.6 * iou[0] + 0.4 * iou[1]))
    assert metrics["mIoU"] == metrics["mIoU_valid"]
    everything, _ = semantic_metrics(matrix, "all")
    assert everything["mIoU"] == metrics["mIoU_all"]
    assert everything["mAcc"] == pytest.approx(100 * (1 + 1 / 4) / 4)


def test_wrong_predictions_are_refused_by_file_name(data):
    entry = data.dataset_dicts[:1]
    shape = data.semantic_predictions()[0].shape
    wrong = {
        r"0000.jpg: the model scores 10 classes but evaluation_\w+ has 9": {
            "sem_seg": torch.zeros(10, *shape)
        },
        r"0000.jpg: the prediction is 3 x 4 but the ground truth": {"sem_seg": torch.zeros(9, 3, 4)},
        r"0000.jpg: predicted label 9 is outside \[0, 9\)": {"sem_seg_labels": torch.full(shape, 9).byte()},
        r"0000.jpg: predicted labels -1 .. -1": {"sem_seg_labels": torch.full(shape, -1)},
    }
    for message, output in wrong.items():
        with pytest.raises(InputError, match=message):
            SemanticEvaluator(data.name, scoring_threads=0).process(entry, [output])


@pytest.mark.parametrize("scoring_threads", [0, 1, 3])
def test_an_unexpected_error_in_a_scoring_thread_names_the_image(data, scoring_threads):
    evaluator = SemanticEvaluator(data.name, scoring_threads=scoring_threads)
    entries = [{**entry} for entry in data.dataset_dicts]
    entries[1]["sem_seg_file_name"] = "/nowhere.png"

    def run():  # the error arrives with a later `process`, or with `evaluate`
        evaluator.process(entries, data.outputs("sem_seg_labels"))
        evaluator.evaluate()

    with pytest.raises(RuntimeError, match=r"0001.jpg: scoring failed with FileNotFoundError"):
        run()


def test_a_repeated_image_counts_once_and_an_empty_run_is_refused(data):
    outputs = data.outputs("sem_seg_labels")
    evaluator = SemanticEvaluator(data.name)
    evaluator.process(data.dataset_dicts[:2] * 2, outputs[:2] * 2)
    evaluator.evaluate()
    assert evaluator.image_count == 2
    assert evaluator.confusion_matrix.sum() == sum(output["sem_seg_labels"].numel() for output in outputs[:2])
    evaluator.reset()
    with pytest.raises(InputError, match="no image was evaluated"):
        evaluator.evaluate()


def test_saved_files_hold_the_labels_colors_matrix_and_json(data, tmp_path):
    out = tmp_path / "inference"
    evaluator = SemanticEvaluator(data.name, out, save_predictions=True, save_json=True)
    outputs = data.outputs("sem_seg_labels")
    evaluator.process(data.dataset_dicts, outputs)
    evaluator.evaluate()
    labels = outputs[3]["sem_seg_labels"].numpy()
    np.testing.assert_array_equal(np.asarray(Image.open(out / "sem_seg/0003.png")), labels)
    colors = np.array(evaluator.metadata.colors)[labels]
    np.testing.assert_array_equal(
        np.asarray(Image.open(out / "sem_seg_color/0003.png").convert("RGB")), colors
    )
    rows = [line.split(",") for line in (out / "sem_seg_confusion.csv").read_text().splitlines()]
    assert rows[0][1:] == evaluator.class_names
    csv_matrix = np.array([row[1:] for row in rows[1:]], int)  # rows: ground truth
    np.testing.assert_array_equal(csv_matrix, evaluator.confusion_matrix[:-1, :-1].T)

    peer = SemSegEvaluator(data.name, distributed=False)
    expected = peer.encode_json_sem_seg(labels.astype(int), data.dataset_dicts[3]["file_name"])
    written = json.loads((out / "sem_seg_predictions.json").read_text())
    assert [
        entry for entry in written if entry["file_name"] == data.dataset_dicts[3]["file_name"]
    ] == expected


def test_more_than_255_classes_are_scored_and_saved_in_16_bits(tmp_path):
    data = PanopticData(tmp_path / "data", num_images=3, num_classes=300)
    out = tmp_path / "inference"
    rng = np.random.default_rng(0)
    truth = [rng.integers(0, 300, (20, 30)).astype(np.uint16) for _ in range(3)]
    predictions = [np.where(rng.random(t.shape) < 0.5, t, rng.integers(0, 300, t.shape)) for t in truth]
    for t in truth:
        t[0] = 65535
    by_file = {entry["file_name"]: t for entry, t in zip(data.dataset_dicts, truth, strict=True)}
    evaluator = SemanticEvaluator(data.name, out, save_predictions=True)
    evaluator.ignore_label = 65535
    evaluator.metadata = evaluator.metadata.__class__(
        load_sem_seg=lambda entry: by_file[entry["file_name"]], colors=evaluator.metadata.colors
    )
    evaluator.process(data.dataset_dicts, [{"sem_seg_labels": torch.from_numpy(p)} for p in predictions])
    metrics = evaluator.evaluate()["sem_seg"]
    pixels = [(p[1:] == t[1:]).mean() for p, t in zip(predictions, truth, strict=True)]
    assert metrics["aAcc"] == pytest.approx(100 * np.mean(pixels))
    saved = Image.open(out / "sem_seg/0002.png")
    np.testing.assert_array_equal(np.asarray(saved), predictions[2])
