"""Boxes of instances for box AP, as COCO has them: [x, y, width, height] in pixels.

Shape shorthand: n instances of an image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances
from pycocotools import mask as mask_tools

from segzoo.utils.errors import InputError

from .base import to_numpy

#: Field of Instances for (n, 4) boxes x, y, width, height from a file, which x0, y0, x1, y1 would round.
FILE_BOXES = "pred_boxes_xywh"


def predicted_boxes(instances: Instances, file_name: str) -> np.ndarray | None:
    """Return the predicted boxes x, y, width, height, (n, 4) float64; None if the instances have none.

    Sides are differences in the precision of `pred_boxes` (float32 for less), as in Detectron2's evaluator.

    Args:
        instances: with `pred_boxes`, Detectron2's Boxes or (n, 4) x0, y0, x1, y1, or with FILE_BOXES.
        file_name: the image, for messages.

    Raises:
        InputError: another shape, or a coordinate that is not finite.
    """
    name = next((field for field in (FILE_BOXES, "pred_boxes") if instances.has(field)), None)
    if name is None:
        return None
    found = instances.get(name)
    found = getattr(found, "tensor", found)
    if isinstance(found, torch.Tensor) and found.dtype in (torch.float16, torch.bfloat16):
        found = found.float()
    boxes = to_numpy(found)
    if boxes.shape != (len(instances), 4):
        raise InputError(f"{file_name}: {name} has the shape {boxes.shape}, expected ({len(instances)}, 4)")
    wrong = ~np.isfinite(boxes).all(axis=1)
    if wrong.any():
        raise InputError(
            f"{file_name}: an instance has the box {boxes[wrong][0].tolist()}, expected finite coordinates"
        )
    if name == "pred_boxes":
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return boxes.astype(np.float64)


def mask_boxes(rles: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return the boxes x, y, width, height of RLE masks, (n, 4) float64; zeros for an empty mask."""
    return mask_tools.toBbox(list(rles)).reshape(-1, 4) if len(rles) else np.zeros((0, 4))
