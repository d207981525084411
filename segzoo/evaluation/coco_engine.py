"""COCO's mask average precision by the libraries that define it: pycocotools, or faster-coco-eval.

Both give the same arrays but for the last rounding; the second, written in C++, takes a fraction of the time
and is used where it is installed.

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
    """The faster of the engines that are installed."""
    return FASTER if importlib.util.find_spec(FASTER) is not None else PYCOCOTOOLS


def evaluate_masks(
    truths: Sequence[dict[str, Any]],
    detections: Sequence[dict[str, Any]],
    sizes: Sequence[tuple[int, int]],
    categories: Sequence[int],
    engine: str = PYCOCOTOOLS,
    ious: Mapping[tuple[int, int], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Runs COCOeval (iouType "segm", its own parameters) over all images.

    Args:
        truths: dicts with `image_id` (number of the image, from 1), `category_id`, `iscrowd`, `area` and
            `segmentation` (compressed run lengths). Of equal detections the order of images decides.
        detections: the same with `score`; the area is that of the mask.
        sizes: (height, width) of the images 1, 2, ...
        categories: (K,) ascending category ids.
        engine: "pycocotools" or "faster_coco_eval".
        ious: {(image_id, category_id): (D, G)} in place of those of the masks, of detections by descending
            score, at most 100, and of truths; where there is none, nothing matches. Then detections have an
            `area`, and no `segmentation` is needed.

    Returns:
        precision (T, R, K, A, M) and recall (T, K, A, M), -1 where no true segment counts.

    Raises:
        InputError: the engine is unknown or not installed.
    """
    coco, evaluation, mask_area = _load(engine)
    images = [
        {"id": number, "height": height, "width": width} for number, (height, width) in enumerate(sizes, 1)
    ]
    # Ids start at 1: COCOeval takes a match with the true segment 0 for none.
    true_segments = [{**truth, "id": number} for number, truth in enumerate(truths, 1)]
    predicted = [
        {"area": float(mask_area(one["segmentation"])) if ious is None else 0.0}
        | {**one, "id": number, "iscrowd": 0}
        for number, one in enumerate(detections, 1)
    ]
    # Both tell of their progress: one prints, the other logs.
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
        result = evaluation(*datasets, "segm")
        if ious is not None:
            # Boxes and masks differ in the computation of IoUs only, which these replace.
            result = evaluation(*datasets, "bbox")
            result.computeIoU = lambda image, category: ious.get((image, category), [])
        # Without a segment of a class COCO's own list would leave the class out.
        result.params.catIds = list(categories)
        result.params.imgIds = [image["id"] for image in images]
        result.evaluate()
        result.accumulate()
    shape = (len(result.params.iouThrs), len(categories), len(result.params.areaRng), 3)
    precision = np.asarray(result.eval["precision"]).reshape(shape[0], -1, *shape[1:])
    return precision, np.asarray(result.eval["recall"]).reshape(shape)


def _load(engine: str) -> tuple[Any, Any, Any]:
    """COCO, COCOeval and mask.area of an engine."""
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
