"""Compute COCO's average precision of masks and boxes with hotcoco, faster-coco-eval or pycocotools.

hotcoco, written in Rust, gives pycocotools' arrays to the last bit, faster-coco-eval, written in C++, up to
rounding. Both take a fraction of the time. The first one of the three that is installed is used.

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

PYCOCOTOOLS, FASTER, HOTCOCO = "pycocotools", "faster_coco_eval", "hotcoco"
#: The packages on PyPI of the optional engines.
_PACKAGES = {HOTCOCO: "hotcoco", FASTER: "faster-coco-eval"}


def installed_engine(takes_ious: bool = False) -> str:
    """Return the fastest one of the installed engines.

    Args:
        takes_ious: leave out hotcoco, which cannot evaluate given IoUs (see `evaluate_masks`).
    """
    for engine in (FASTER,) if takes_ious else (HOTCOCO, FASTER):
        if importlib.util.find_spec(engine) is not None:
            return engine
    return PYCOCOTOOLS


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
        engine: "pycocotools", "faster_coco_eval" or "hotcoco"; not the last one with `ious`.
        ious: {(image_id, category_id): (D, G)} instead of mask IoUs, for at most 100 detections by descending
            score and for truths; pairs without an entry do not match. Then detections need an `area` and no
            `segmentation`.

    Returns:
        precision (T, R, K, A, M) and recall (T, K, A, M), -1 where all true segments are ignored.

    Raises:
        InputError: the engine is unknown or not installed, or cannot evaluate given IoUs.
    """
    if ious is None:
        areas = _load(engine)[2]([one["segmentation"] for one in detections]) if detections else ()
        detections = [{"area": float(area), **one} for area, one in zip(areas, detections, strict=True)]
    elif engine == HOTCOCO:
        raise InputError(f"{HOTCOCO} cannot evaluate given IoUs; use {FASTER} or {PYCOCOTOOLS}")
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
    # pycocotools prints its progress, faster-coco-eval logs it.
    with contextlib.redirect_stdout(io.StringIO()):
        datasets = []
        for annotations in (true_segments, predicted):
            content = {
                "images": images,
                "categories": [{"id": category, "name": str(category)} for category in categories],
                "annotations": annotations,
            }
            if engine == HOTCOCO:
                datasets.append(coco(content))
                continue
            dataset = coco()
            dataset.dataset = content
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
    if engine not in _PACKAGES:
        raise InputError(f"COCO evaluation by {engine!r}: expected {PYCOCOTOOLS}, {FASTER} or {HOTCOCO}")
    if importlib.util.find_spec(engine) is None:
        raise InputError(f"{engine} is not installed; pip install {_PACKAGES[engine]}, or use {PYCOCOTOOLS}")
    if engine == HOTCOCO:
        import hotcoco

        return hotcoco.COCO, hotcoco.COCOeval, hotcoco.mask.area
    from faster_coco_eval import COCO, COCOeval_faster, mask

    logging.getLogger(FASTER).setLevel(logging.WARNING)
    return COCO, COCOeval_faster, mask.area
