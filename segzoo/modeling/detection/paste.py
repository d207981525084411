"""Paste the masks of boxes into images, with Detectron2's result.

Shape shorthand: R boxes, M side of a mask, H W size of the image, h w size of the window around a box.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.layers import paste_masks_in_image
from torch import Tensor

from segzoo.utils.compiled import load_loops

# Values at full size at a time in Detectron2's function on a GPU.
_VALUES_AT_ONCE = 2**25
# Pixels near the threshold for which there is place at first.
_UNSURE = 4096


def paste_masks(masks: Tensor, boxes: Tensor, size: Sequence[int], threshold: float = 0.5) -> Tensor:
    """Return masks at full size: the pixels where a mask, interpolated bilinearly, is at least `threshold`.

    The values of a mask are at the centers of the M x M cells of its box. The result equals that of
    Detectron2's `paste_masks_in_image`; boxes without an area have no pixels. On a CPU the cost is that of
    the windows around the boxes, and memory is used only there.

    Args:
        masks: (R, M, M) float in [0, 1].
        boxes: (R, 4) float, x0 y0 x1 y1 in pixels of the image; they may extend beyond it.
        size: (H, W).
        threshold: in (0, 1].

    Returns:
        (R, H, W) bool, on the device of the masks.
    """
    height, width = size
    masks, boxes = masks.detach().float().contiguous(), boxes.detach().float()
    loops = load_loops("segzoo.modeling.detection.loops") if masks.device.type == "cpu" else None
    if loops is None:
        return _by_detectron2(masks, boxes, (height, width), threshold)
    # Pages of these zeros that no window touches take no memory.
    planes = np.zeros((len(masks), height, width), np.uint8)
    margin = _margin(masks)
    for plane, mask, box in zip(planes, masks.numpy(), boxes.numpy(), strict=True):
        if not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
            continue
        left, columns = _window(box[0], box[2], width, mask.shape[1])
        top, rows = _window(box[1], box[3], height, mask.shape[0])
        if not len(rows) or not len(columns):
            continue
        places = [_sampled(positions, mask.shape[0]) for positions in (rows, columns)]
        unsure = np.empty(_UNSURE, np.int32)
        arguments = mask, *places, np.float32(threshold), margin, plane, top, left
        count = loops.paste_window(*arguments, unsure)
        if count > len(unsure):
            unsure = np.empty(count, np.int32)
            loops.paste_window(*arguments, unsure)
        if count:
            y, x = np.divmod(unsure[:count], len(columns))
            values = _grid_sampled(mask, rows[y], columns[x])
            plane[top + y, left + x] = values >= threshold
    return torch.from_numpy(planes).view(torch.bool)


def _by_detectron2(masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Paste by Detectron2's function, which on a CPU goes box by box, in groups of bounded memory."""
    result = torch.zeros((len(masks), *size), dtype=torch.bool, device=masks.device)
    visible = (boxes[:, 2:] > boxes[:, :2]).all(1) & boxes.isfinite().all(1)
    visible &= (boxes[:, 2:] > 0).all(1) & (boxes[:, 0] < size[1]) & (boxes[:, 1] < size[0])
    indices = visible.nonzero()[:, 0]
    step = max(1, _VALUES_AT_ONCE // (size[0] * size[1]))
    for start in range(0, len(indices), step):
        part = indices[start : start + step]
        result[part] = paste_masks_in_image(masks[part], boxes[part], size, threshold)
    return result


def _window(start: np.float32, stop: np.float32, side: int, cells: int) -> tuple[int, np.ndarray]:
    """Return along one axis the first pixel of a window, and the positions of its pixels, [-1, 1] in the box.

    The pixels are Detectron2's on a CPU, which end a pixel outside of the box, without those on which no
    sample has an influence.
    """
    first = max(math.floor(start) - 1, 0)
    pixels = np.arange(first, min(math.ceil(stop) + 1, side), dtype=np.float32) + 0.5
    # Detectron2's operations in its order and precision.
    positions = (pixels - start) / (stop - start) * 2 - 1
    places = _sampled(positions, cells)
    begin, end = np.searchsorted(places, -1, "right"), np.searchsorted(places, cells, "left")
    return first + int(begin), positions[begin:end]


def _sampled(positions: np.ndarray, cells: int) -> np.ndarray:
    """Return positions in [-1, 1] as places among the samples, which are at 0, ..., cells - 1."""
    return (positions + 1) * np.float32(cells / 2) - np.float32(0.5)


def _margin(masks: Tensor) -> np.float32:
    """Return how much the order of operations may change an interpolated value, with some to spare."""
    largest = masks.abs().max().nan_to_num().item() if masks.numel() else 0.0
    return np.float32((12 * masks.shape[-1] + 16) * 2.0**-24 * largest)


def _grid_sampled(mask: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the values of a mask at (P,) positions in [-1, 1], by the operator that Detectron2 uses."""
    grid = torch.from_numpy(np.stack((x, y), axis=1))[None, None]
    return F.grid_sample(torch.from_numpy(mask)[None, None], grid, align_corners=False)[0, 0, 0].numpy()
