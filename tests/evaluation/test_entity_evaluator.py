"""EntityEvaluator against pycocotools with every category set to 1."""

import contextlib
import io

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segzoo.evaluation import EntityEvaluator
from segzoo.evaluation.average_precision import accumulate, match_image
from segzoo.evaluation.entity import resolve_overlaps, resolve_overlaps_on_device
from segzoo.utils.errors import InputError
from tests.evaluation.evaluation_data import PanopticData


def encode(mask):
    return rle.encode(np.asfortranarray(mask, np.uint8))


def mask_area(mask):
    return int(mask.sum())


def box_area(mask):
    return int(np.prod([np.ptp(places) + 1 for places in np.nonzero(mask)]))


def pycocotools_result(images, area=mask_area):
    """images: list of (image id, true masks, detected masks, scores); returns the evaluated COCOeval."""
    annotations, detections = [], []
    for image_id, true_masks, detected_masks, scores in images:
        for mask in true_masks:
            fields = {"id": len(annotations) + 1, "category_id": 1, "iscrowd": 0, "area": area(mask)}
            annotations.append({**fields, "image_id": image_id, "segmentation": encode(mask)})
        for mask, score in zip(detected_masks, scores, strict=True):
            detections.append(
                {"image_id": image_id, "category_id": 1, "score": score, "segmentation": encode(mask)}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [
                {"id": image_id, "height": masks[0].shape[0], "width": masks[0].shape[1]}
                for image_id, *lists in images
                if (masks := lists[0] + lists[1])
            ],
            "categories": [{"id": 1}],
            "annotations": annotations,
        }
        truth.createIndex()
        result = COCOeval(truth, truth.loadRes(detections), "segm")
        result.evaluate()
        result.accumulate()
        result.summarize()
    return result


def masks_of(ids, segments):
    return [ids == segment["id"] for segment in segments]


@pytest.mark.parametrize(
    ("seed", "area"), [*((seed, "mask") for seed in range(4)), *((seed, "box") for seed in (0, 3))]
)
def test_precision_recall_and_metrics_are_bitwise_those_of_pycocotools(tmp_path, seed, area):
    crowded = seed == 3
    data = PanopticData(
        tmp_path / "data", num_images=4 if crowded else 10, seed=seed, max_segments=250 if crowded else 14
    )
    data.dataset_dicts[0]["image_id"] = 999  # images are not in the order of their ids
    if crowded:  # more detections in an image than are counted
        assert max(len(segments) for _, segments in data.predictions) > 100
    evaluator = EntityEvaluator(data.name, entity_area=area)
    assert evaluator.protocol() == ({} if area == "mask" else {"entity_area": "box"})
    evaluator.process(data.dataset_dicts, data.outputs("entity_seg"))
    metrics = evaluator.evaluate()["entity_seg"]
    images = [
        (
            entry["image_id"],
            masks_of(ids, [segment for segment in segments if not segment["iscrowd"]]),
            masks_of(*prediction),
            [segment["score"] for segment in prediction[1]],
        )
        for entry, (ids, segments), prediction in zip(
            data.dataset_dicts, data.ground_truths, data.predictions, strict=True
        )
    ]
    peer = pycocotools_result(images, {"mask": mask_area, "box": box_area}[area])
    np.testing.assert_array_equal(evaluator.precision, peer.eval["precision"][:, :, 0])
    np.testing.assert_array_equal(evaluator.recall, peer.eval["recall"][:, 0])
    expected = np.where(peer.stats < 0, np.nan, 100 * peer.stats)
    np.testing.assert_array_equal(list(metrics.values()), expected)
    assert 0 < metrics["AP"] < 100
    assert list(metrics)[:6] == ["AP", "AP50", "AP75", "APs", "APm", "APl"]


def test_areas_ties_and_exact_halves_match_as_in_pycocotools():
    # Squares of several sizes around the area limits, split exactly in two, with equal scores.
    rng = np.random.default_rng(5)
    images, ours = [], []
    for image_id in range(1, 7):
        truth, predicted = np.zeros((2, 128, 160), np.int32)
        truth[:32, :32], truth[:96, 40:136], truth[100:110, :] = 1, 2, 3
        predicted[:32, :32], predicted[:96, 40:88], predicted[:96, 88:136], predicted[100:105] = 4, 5, 6, 7
        if image_id % 2:
            truth, predicted = predicted, truth  # one detection on two segments, each with IoU 1/2
        true_masks = [truth == i for i in np.unique(truth)[1:]]
        detected = [predicted == i for i in np.unique(predicted)[1:]]
        scores = rng.choice([0.5, 0.75], len(detected)).tolist()
        images.append((image_id, true_masks, detected, scores))
        intersections = np.array([[(t & d).sum() for d in detected] for t in true_masks])
        areas = [np.array([mask.sum() for mask in masks]) for masks in (true_masks, detected)]
        ours.append(match_image(intersections, *areas, np.array(scores)))
    precision, recall = accumulate(ours)
    peer = pycocotools_result(images)
    np.testing.assert_array_equal(precision, peer.eval["precision"][:, :, 0])
    np.testing.assert_array_equal(recall, peer.eval["recall"][:, 0])


def test_ground_truth_as_prediction_scores_100(tmp_path):
    data = PanopticData(tmp_path / "data")
    outputs = []
    for ids, segments in data.ground_truths:
        kept = [{"id": s["id"], "score": 0.5} for s in segments if not s["iscrowd"]]
        outputs.append({"entity_seg": (np.where(np.isin(ids, [s["id"] for s in kept]), ids, 0), kept)})
    evaluator = EntityEvaluator(data.name)
    evaluator.process(data.dataset_dicts, outputs)
    metrics = evaluator.evaluate()["entity_seg"]
    assert metrics["AP"] == metrics["AP50"] == metrics["AR100"] == 100


def test_overlapping_instances_are_cut_by_score_counted_and_reported(tmp_path, caplog):
    masks = np.zeros((4, 2, 4), bool)
    masks[0, :, :2], masks[1, :, 1:3], masks[2, 0, 1], masks[3, 1, 3] = True, True, True, True
    for resolve, form in ((resolve_overlaps, masks), (resolve_overlaps_on_device, torch.from_numpy(masks))):
        ids, segments, num_cut = resolve(form, np.array([0.5, 0.9, 0.3, 0.9]))
        assert ids.dtype == np.int32
        assert ids.tolist() == [[1, 2, 2, 0], [1, 2, 2, 4]]
        assert segments == [{"id": 1, "score": 0.5}, {"id": 2, "score": 0.9}, {"id": 4, "score": 0.9}]
        assert num_cut == 2  # mask 0 lost a column, mask 2 everything

    data = PanopticData(tmp_path / "data", num_images=1)
    height, width = data.ground_truths[0][0].shape
    instances = Instances((height, width))
    instances.pred_masks = torch.ones(2, height, width, dtype=torch.bool)
    instances.scores = torch.tensor([0.25, 0.5])
    evaluator = EntityEvaluator(data.name)
    with caplog.at_level("INFO"):
        evaluator.process(data.dataset_dicts, [{"instances": instances}])
        evaluator.evaluate()
    assert "1 entity masks of 1 images overlapped" in caplog.text


def test_an_entity_without_a_finite_score_is_refused(tmp_path):
    data = PanopticData(tmp_path / "data", num_images=1)
    ids = np.ones(data.ground_truths[0][0].shape, np.int32)
    for segment in (
        {"id": 1},
        *({"id": 1, "score": score} for score in (float("nan"), "high", None, 10**400)),
    ):
        with pytest.raises(InputError, match=r"0000.jpg: entity 1 has score"):
            EntityEvaluator(data.name).process(data.dataset_dicts, [{"entity_seg": (ids, [segment])}])
