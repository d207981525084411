"""Compute COCO's average precision of masks and boxes with pycocotools or faster-coco-eval.

Both give the same arrays up to rounding; the second, written in C++, takes a fraction of the time and is used
if it is installed.

Shape shorthand: T IoU thresholds, R recall thresholds, K classes, A area ranges, M detection limits.
"""

import contextlib
import importlib.util
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segzoo.utils.errors import InputError

PYCOCOTOOLS, FASTER = "pycocotools", "faster_coco_eval"


def installed_engine() -> str:
    """Return the faster one of the installed engines."""
    return FASTER if importlib.util.find_spec(FASTER) is not None else PYCOCOTOOLS


def evaluate_masks(
    truths: Sequence[dict[str, Any]],
    detections: Sequence[dict[str, Any]],
    sizes: Sequence[tuple[int, int]],
    categories: Sequence[int],
    engine: str = PYCOCOTOOLS,
    ious: Mapping[tuple[int, int], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Run COCOeval (iouType "segm", default parameters) over all images.

    Args:
        truths: dicts with `image_id` (number of the image, from 1), `category_id`, `iscrowd`, `area` and
            `segmentation` (compressed RLE). Detections with equal scores are ordered by image.
        detections: likewise, with `score`; the area is the mask's.
        sizes: (height, width) of the images 1, 2, ...
        categories: (K,) ascending category ids.
        engine: "pycocotools" or "faster_coco_eval".
        ious: {(image_id, category_id): (D, G)} instead of mask IoUs, for at most 100 detections by descending
            score and for truths; pairs without an entry do not match. Then detections need an `area` and no
            `segmentation`.

    Returns:
        precision (T, R, K, A, M) and recall (T, K, A, M), -1 where all true segments are ignored.

    Raises:
        InputError: the engine is unknown or not installed.
    """
    if ious is None:
        mask_area = _load(engine)[2]
        detections = [{"area": float(mask_area(one["segmentation"])), **one} for one in detections]
    return _evaluate("segm", truths, detections, sizes, categories, engine, ious)


def evaluate_boxes(
    truths: Sequence[dict[str, Any]],
    detections: Sequence[dict[str, Any]],
    sizes: Sequence[tuple[int, int]],
    categories: Sequence[int],
    engine: str = PYCOCOTOOLS,
) -> tuple[np.ndarray, np.ndarray]:
    """Run COCOeval (iouType "bbox", default parameters) over all images.

    Args:
        truths: as for `evaluate_masks`, with `bbox` [x, y, width, height] instead of `segmentation`; `area`
            need not be the box's.
        detections: likewise, with `score`; the area is the box's.
        sizes, categories, engine: as for `evaluate_masks`.

    Returns:
        As `evaluate_masks`.

    Raises:
        InputError: the engine is unknown or not installed.
    """
    detections = [{**one, "area": one["bbox"][2] * one["bbox"][3]} for one in detections]
    return _evaluate("bbox", truths, detections, sizes, categories, engine)


def _evaluate(
    iou_type: str,
    truths: Sequence[dict[str, Any]],
    detections: Sequence[dict[str, Any]],
    sizes: Sequence[tuple[int, int]],
    categories: Sequence[int],
    engine: str,
    ious: Mapping[tuple[int, int], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Run COCOeval on detections that have an `area`; see `evaluate_masks`."""
    coco, evaluation, _ = _load(engine)
    images = [
        {"id": number, "height": height, "width": width} for number, (height, width) in enumerate(sizes, 1)
    ]
    # Ids start at 1: COCOeval treats a match with the true segment 0 as no match.
    true_segments = [{**truth, "id": number} for number, truth in enumerate(truths, 1)]
    predicted = [{**one, "id": number, "iscrowd": 0} for number, one in enumerate(detections, 1)]
    # Both report progress: one prints, the other logs.
    with contextlib.redirect_stdout(io.StringIO()):
        datasets = []
        for annotations in (true_segments, predicted):
            dataset = coco()
            dataset.dataset = {
                "images": images,
                "categories": [{"id": category, "name": str(category)} for category in categories],
                "annotations": annotations,
            }
            dataset.createIndex()
            datasets.append(dataset)
        result = evaluation(*datasets, iou_type)
        if ious is not None:
            # Boxes and masks differ only in the computation of IoUs, which is replaced.
            result = evaluation(*datasets, "bbox")
            result.computeIoU = lambda image, category: ious.get((image, category), [])
        # COCO's own list would omit classes without a segment.
        result.params.catIds = list(categories)
        result.params.imgIds = [image["id"] for image in images]
        result.evaluate()
        result.accumulate()
    shape = (len(result.params.iouThrs), len(categories), len(result.params.areaRng), 3)
    precision = np.asarray(result.eval["precision"]).reshape(shape[0], -1, *shape[1:])
    return precision, np.asarray(result.eval["recall"]).reshape(shape)


def _load(engine: str) -> tuple[Any, Any, Any]:
    """Return COCO, COCOeval and mask.area of an engine."""
    if engine == PYCOCOTOOLS:
        from pycocotools import mask
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval, mask.area
    if engine != FASTER:
        raise InputError(f"COCO evaluation by {engine!r}: expected {PYCOCOTOOLS} or {FASTER}")
    if importlib.util.find_spec(FASTER) is None:
        raise InputError(f"{FASTER} is not installed; pip install faster-coco-eval, or use {PYCOCOTOOLS}")
    from faster_coco_eval import COCO, COCOeval_faster, mask

    logging.getLogger(FASTER).setLevel(logging.WARNING)
    return COCO, COCOeval_faster, mask.area
