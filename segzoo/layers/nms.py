"""Non-maximum suppression where torchvision's operator cannot be loaded, with the same result.

`segzoo.compat` lets `torchvision.ops.nms` call it.
"""

import numpy as np
import torch
from torch import Tensor

from segzoo.utils.compiled import load_loops


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Select boxes, the best first, that do not overlap with a selected one.

    As in torchvision's operator for CPUs, the IoU is rounded to the dtype of the boxes before it is compared:
    3/5 in float32 is above 0.6. Boxes without area suppress nothing.

    Args:
        boxes: (B, 4) float x1, y1, x2, y2.
        scores: (B,) float.
        iou_threshold: a box whose IoU with a selected one is above it is dropped.

    Returns:
        (kept,) int64 indices of the selected boxes, highest score first; equal scores keep their order.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    boxes = boxes.detach()[order]
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    sides = np.ascontiguousarray(boxes.cpu().numpy().T)
    left, top, right, bottom = sides
    areas = (right - left) * (bottom - top)
    alive = np.ones(len(areas), dtype=bool)
    loops = load_loops("segzoo.layers.nms_loops")
    suppress = _suppress if loops is None else loops.suppress
    suppress(sides, areas, float(iou_threshold), alive)
    return order[torch.from_numpy(alive).to(order.device)]


def _suppress(sides: np.ndarray, areas: np.ndarray, iou_threshold: float, alive: np.ndarray) -> None:
    """Do what `nms_loops.suppress` does, in numpy."""
    left, top, right, bottom = sides
    for index in range(len(areas)):
        if not alive[index]:
            continue
        rest = slice(index + 1, None)
        width = np.minimum(right[index], right[rest]) - np.maximum(left[index], left[rest])
        height = np.minimum(bottom[index], bottom[rest]) - np.maximum(top[index], top[rest])
        intersection = width.clip(min=0) * height.clip(min=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            iou = intersection / (areas[index] + areas[rest] - intersection)
        alive[rest] &= ~(iou.astype(np.float64) > iou_threshold)
