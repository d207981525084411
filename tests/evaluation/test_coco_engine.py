"""Tests that the engines of COCO's average precision give the same arrays, on random scenes."""

import importlib.util

import numpy as np
import pytest
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segzoo.evaluation import coco_engine
from segzoo.evaluation.boundary import BoundaryInstanceEvaluator
from segzoo.evaluation.coco_engine import evaluate_boxes, evaluate_masks, installed_engine
from segzoo.evaluation.instance import InstanceEvaluator
from segzoo.evaluation.results import compare_results
from segzoo.utils.errors import InputError

from .test_instance_evaluator import InstanceData

NUM_CLASSES = 5
# Areas at the limits of COCO's ranges, and above the largest.
AREAS = (0.0, 32.0**2, 96.0**2, 1e10, 1e10 + 1, 3e10)
SIDES = (0.0, 32.0, 96.0, 1e5, 1e5 + 0.5, 2e5)


def scene(seed, size=(60, 70), num_images=6):
    """Random truths and detections: crowds, equal scores, empty masks, images and classes without any.

    Every eleventh seed has no detection, every thirteenth no truth; one image may have 130 detections.
    """
    rng = np.random.default_rng(seed)
    height, width = size

    def mask():
        kind, (y, x) = rng.random(), (rng.integers(side) for side in size)
        if kind < 0.05:
            return np.full(size, kind < 0.025)
        if kind < 0.3:
            return rng.random(size) < rng.random() / 2
        found = np.zeros(size, bool)
        found[y : y + rng.integers(height), x : x + rng.integers(width)] = True
        return found

    def one(image, category, pixels, box, **fields):
        code = rle.encode(np.asfortranarray(pixels, np.uint8))
        code = {"size": list(size), "counts": code["counts"].decode()}
        fields = {"image_id": image, "category_id": int(category), **fields}
        return {**fields, "segmentation": code, "bbox": [float(value) for value in box]}

    truths, detections = [], []
    for image in range(1, num_images + 1):
        for _ in range(rng.integers(8)):
            pixels, category = mask(), rng.integers(NUM_CLASSES - 1)
            box = [*rng.integers(-5, 50, 2), *rng.integers(0, 60, 2)]
            if rng.random() < 0.2:
                box[2:] = rng.choice(SIDES, 2)
            area = float(rng.choice(AREAS) if rng.random() < 0.3 else pixels.sum())
            truths.append(one(image, category, pixels, box, iscrowd=int(rng.random() < 0.15), area=area))
            for _ in range(rng.integers(3)):
                seen = pixels & (rng.random(size) > 0.3 * rng.random())
                moved = [box[0] + rng.integers(2), *box[1:]]
                guess = category if rng.random() < 0.9 else rng.integers(NUM_CLASSES)
                detections.append(one(image, guess, seen, moved, score=rng.integers(6) / 5))
        for _ in range(130 if rng.random() < 0.1 else rng.integers(3)):
            box = 60 * rng.random(4)
            detections.append(one(image, rng.integers(NUM_CLASSES), mask(), box, score=rng.random()))
    truths, detections = (truths if seed % 13 else []), (detections if seed % 11 else [])
    return truths, detections, [size] * num_images


def by_pycocotools(truths, detections, sizes, iou_type):
    """COCOeval as its authors' example runs it, with all classes."""
    datasets = []
    for annotations in (truths, detections):
        dataset = COCO()
        dataset.dataset = {
            "images": [{"id": n, "height": h, "width": w} for n, (h, w) in enumerate(sizes, 1)],
            "categories": [{"id": category, "name": "any"} for category in range(NUM_CLASSES)],
            "annotations": [{"iscrowd": 0, **one, "id": n} for n, one in enumerate(annotations, 1)],
        }
        dataset.createIndex()
        datasets.append(dataset)
    for one in datasets[1].dataset["annotations"]:
        box = one["bbox"]
        one["area"] = float(rle.area(one["segmentation"])) if iou_type == "segm" else box[2] * box[3]
    evaluation = COCOeval(*datasets, iou_type)
    evaluation.params.catIds = list(range(NUM_CLASSES))
    evaluation.params.imgIds = list(range(1, len(sizes) + 1))
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def check(seed, engine, **tolerance):
    truths, detections, sizes = scene(seed)
    for iou_type, evaluate in (("segm", evaluate_masks), ("bbox", evaluate_boxes)):
        expected = by_pycocotools(truths, detections, sizes, iou_type)
        found = evaluate(truths, detections, sizes, range(NUM_CLASSES), engine)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=0, **tolerance)


@pytest.mark.parametrize("seed", [*range(9), 11, 13, 143])
def test_hotcoco_gives_pycocotools_arrays_to_the_last_bit(seed):
    pytest.importorskip("hotcoco")
    check(seed, "hotcoco", rtol=0)


@pytest.mark.parametrize("seed", [1, 2, 11, 13])
def test_faster_coco_eval_gives_pycocotools_arrays_up_to_rounding(seed):
    pytest.importorskip("faster_coco_eval")
    check(seed, "faster_coco_eval", rtol=1e-14)


@pytest.mark.parametrize("seed", [3, 143])
def test_pycocotools_is_called_as_its_example(seed):
    check(seed, "pycocotools", rtol=0)


def test_the_fastest_installed_engine_is_used_and_named(tmp_path, monkeypatch):
    """Boundary AP replaces IoUs, which hotcoco cannot take. Results by different engines are comparable."""
    data = InstanceData(tmp_path / "data", num_images=1)
    installed = {"hotcoco", "faster_coco_eval"}
    monkeypatch.setattr(
        coco_engine.importlib.util, "find_spec", lambda name: True if name in installed else None
    )
    for expected, of_boundaries in (("hotcoco", "faster_coco_eval"), ("pycocotools", "pycocotools")):
        assert InstanceEvaluator(data.name).protocol()["engine"] == expected
        assert BoundaryInstanceEvaluator(data.name).protocol()["engine"] == of_boundaries
        installed.clear()
    documents = []
    for engine in ("hotcoco", "pycocotools"):
        protocol = {"evaluators": {"a": {"segm": {"rules": "COCO", "engine": engine}}}, "datasets": {"a": 1}}
        documents.append({"protocol": protocol, "results": {"a": {"segm": {"AP": 1.0}}}})
    assert compare_results(*documents) == {"a": {"segm/AP": (1.0, 1.0)}}


def test_hotcoco_refuses_given_ious_and_a_missing_engine_is_named(monkeypatch):
    with pytest.raises(InputError, match="hotcoco cannot evaluate given IoUs; use faster_coco_eval or"):
        evaluate_masks([], [], [], [0], "hotcoco", {})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for engine, package in (("hotcoco", "hotcoco"), ("faster_coco_eval", "faster-coco-eval")):
        with pytest.raises(InputError, match=f"{engine} is not installed; pip install {package}, or use"):
            evaluate_boxes([], [], [], [0], engine)
    assert installed_engine() == "pycocotools"
