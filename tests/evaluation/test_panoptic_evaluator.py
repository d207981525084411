"""PanopticEvaluator against panopticapi's single-process run on PNGs and JSON, bit by bit."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from panopticapi.evaluation import pq_compute_single_core

from segzoo.evaluation import PanopticEvaluator
from segzoo.evaluation.panoptic import image_quality
from segzoo.evaluation.segments import SegmentMap
from segzoo.utils.errors import InputError
from tests.evaluation.evaluation_data import PanopticData, write_rgb_ids


def panopticapi_result(data, folder):
    """Writes the predictions and returns panopticapi's (per-class sums, {All, Things, Stuff})."""
    folder.mkdir()
    pairs = []
    annotations = json.loads(data.gt_json.read_text())["annotations"]
    for entry, truth, (ids, segments) in zip(data.dataset_dicts, annotations, data.predictions, strict=True):
        png = f"{entry['image_id']}.png"
        write_rgb_ids(folder / png, ids)
        infos = [{"id": s["id"], "category_id": data.dataset_ids[s["category_id"]]} for s in segments]
        pairs.append((truth, {"image_id": entry["image_id"], "file_name": png, "segments_info": infos}))
    categories = {category["id"]: category for category in data.categories()}
    with contextlib.redirect_stdout(io.StringIO()):
        sums = pq_compute_single_core(0, pairs, str(data.gt_folder), str(folder), categories)
    groups = {"": None, "_th": True, "_st": False}
    return sums, {suffix: sums.pq_average(categories, isthing=flag)[0] for suffix, flag in groups.items()}


def evaluate(data, **options):
    evaluator = PanopticEvaluator(data.name, **options)
    evaluator.process(data.dataset_dicts, data.outputs("panoptic_seg"))
    return evaluator, evaluator.evaluate()["panoptic_seg"]


@pytest.mark.parametrize("seed", range(6))
def test_every_class_is_bitwise_that_of_panopticapi(tmp_path, seed):
    data = PanopticData(tmp_path / "data", num_images=12, seed=seed)
    evaluator, metrics = evaluate(data)
    sums, averages = panopticapi_result(data, tmp_path / "predictions")
    kinds = set()
    for category, number in enumerate(data.dataset_ids):
        ours = (evaluator.class_sums.tp, evaluator.class_sums.fp, evaluator.class_sums.fn)
        assert tuple(count[category] for count in ours) == (sums[number].tp, sums[number].fp, sums[number].fn)
        assert evaluator.class_sums.iou[category] == sums[number].iou
        kinds |= {name for name in ("tp", "fp", "fn") if getattr(sums[number], name)}
    assert kinds == {"tp", "fp", "fn"}
    for suffix, average in averages.items():
        for measure in ("PQ", "SQ", "RQ"):
            assert metrics[f"{measure}{suffix}"] == 100 * average[measure.lower()]


def test_more_than_255_segments_in_an_image(tmp_path):
    data = PanopticData(tmp_path / "data", num_images=3, seed=1, max_segments=600)
    assert max(len(segments) for segments, *_ in (truth[1:] for truth in data.ground_truths)) > 255
    evaluator, _ = evaluate(data)
    sums, _ = panopticapi_result(data, tmp_path / "predictions")
    ious = [sums[number].iou for number in data.dataset_ids]
    assert evaluator.class_sums.iou.tolist() == ious


def quality(true_rows, true_segments, predicted_rows, predicted_segments):
    truth = [{"iscrowd": 0, **segment} for segment in true_segments]
    return image_quality(
        "a.png",
        SegmentMap(np.array(true_rows), truth),
        SegmentMap(np.array(predicted_rows), predicted_segments),
    )


def test_void_leaves_the_union_and_half_is_not_a_match():
    truth = [{"id": 1, "category_id": 0}]
    prediction = [{"id": 5, "category_id": 0}]
    # 3 shared pixels, 3 on void: IoU 3 / 4, not 3 / 7.
    result = quality([[1, 1, 1, 1, 0, 0, 0]], truth, [[5, 5, 5, 0, 5, 5, 5]], prediction)
    assert result.matched == [(0, 3 / 4)]
    half = quality([[1, 1, 1, 1]], truth, [[5, 5, 0, 0]], prediction)
    assert (half.matched, half.missed, half.spurious) == ([], [0], [0])


def test_crowd_is_never_missed_and_excuses_only_predictions_of_its_class():
    truth = [{"id": 1, "category_id": 0, "iscrowd": 1}]
    mostly_crowd = [[5, 5, 5, 5]]
    same = quality([[1, 1, 1, 0]], truth, mostly_crowd, [{"id": 5, "category_id": 0}])
    assert (same.matched, same.missed, same.spurious) == ([], [], [])
    other = quality([[1, 1, 1, 0]], truth, mostly_crowd, [{"id": 5, "category_id": 1}])
    assert (other.missed, other.spurious) == ([], [1])


def test_ground_truth_as_prediction_scores_100(tmp_path):
    data = PanopticData(tmp_path / "data")
    crowds = [{s["id"] for s in segments if s["iscrowd"]} for _, segments in data.ground_truths]
    data.predictions = [
        (np.where(np.isin(ids, list(crowd)), 0, ids), [s for s in segments if s["id"] not in crowd])
        for (ids, segments), crowd in zip(data.ground_truths, crowds, strict=True)
    ]
    _, metrics = evaluate(data)
    assert metrics["PQ"] == metrics["PQ_th"] == metrics["PQ_st"] == metrics["SQ"] == metrics["RQ"] == 100


def test_wrong_predictions_are_refused_by_file_name(tmp_path):
    data = PanopticData(tmp_path / "data", num_images=1)
    ids = np.ones(data.ground_truths[0][0].shape, np.int32)
    cases = {
        "0000.jpg: segment 1 is in the predicted id map but not in its list": (ids, []),
        "0000.jpg: segment 2 is in the predicted list but not in its id map": (
            ids,
            [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 0}],
        ),
        r"0000.jpg: segment 1 has category 7, expected a contiguous class id in \[0, 7\)": (
            ids,
            [{"id": 1, "category_id": 7}],
        ),
        "0000.jpg: predicted segment ids must be unique": (ids, [{"id": 1, "category_id": 0}] * 2),
        "0000.jpg: the prediction is 2 x 2 but the ground truth": (
            ids[:2, :2],
            [{"id": 1, "category_id": 0}],
        ),
        "no segments_info": (ids, None),
    }
    for message, (id_map, segments) in cases.items():
        output = {"panoptic_seg": (torch.from_numpy(id_map), segments)}
        with pytest.raises(InputError, match=message):
            PanopticEvaluator(data.name, scoring_threads=0).process(data.dataset_dicts, [output])


def test_saved_folder_is_accepted_by_panopticapi_with_the_same_numbers(tmp_path):
    data = PanopticData(tmp_path / "data", num_images=9, seed=4)
    out = tmp_path / "inference"
    _, metrics = evaluate(data, output_dir=out, save_predictions=True)
    truth = json.loads(data.gt_json.read_text())
    predicted = {
        entry["image_id"]: entry
        for entry in json.loads((out / "predictions.json").read_text())["annotations"]
    }
    pairs = [(entry, predicted[entry["image_id"]]) for entry in truth["annotations"]]
    categories = {category["id"]: category for category in truth["categories"]}
    with contextlib.redirect_stdout(io.StringIO()):
        sums = pq_compute_single_core(0, pairs, str(data.gt_folder), str(out / "predictions"), categories)
    assert metrics["PQ"] == 100 * sums.pq_average(categories, isthing=None)[0]["pq"]
