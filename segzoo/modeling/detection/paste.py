"""Paste the masks of boxes into images, with Detectron2's result.

Shape shorthand: R boxes, M side of a mask, H W size of the image, h w size of the window around a box.
"""

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
    buffers = np.empty(height, np.float32), np.empty(width, np.float32)
    for plane, mask, box in zip(planes, masks.numpy(), boxes.numpy(), strict=True):
        if not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
            continue
        arguments = mask, box, np.float32(threshold), margin, plane, *buffers
        unsure = np.empty(_UNSURE, np.int64)
        count = loops.paste_mask(*arguments, unsure)
        if count > len(unsure):
            unsure = np.empty(count, np.int64)
            loops.paste_mask(*arguments, unsure)
        if count:
            pixels = unsure[:count]
            plane.flat[pixels] = _sampled(mask, box, *np.divmod(pixels, width)) >= threshold
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


def _margin(masks: Tensor) -> np.float32:
    """Return how much the order of operations may change an interpolated value, with some to spare."""
    largest = masks.abs().max().nan_to_num().item() if masks.numel() else 0.0
    return np.float32((12 * masks.shape[-1] + 16) * 2.0**-24 * largest)


def _sampled(mask: np.ndarray, box: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the values of a mask at (P,) pixels, by the operations of Detectron2's function."""
    grid = [
        (pixels.astype(np.float32) + 0.5 - box[axis]) / (box[axis + 2] - box[axis]) * 2 - 1
        for axis, pixels in enumerate((x, y))
    ]
    places = torch.from_numpy(np.stack(grid, axis=1).astype(np.float32))[None, None]
    return F.grid_sample(torch.from_numpy(mask)[None, None], places, align_corners=False)[0, 0, 0].numpy()
