"""Masks at the size of the image, as GluonCV's evaluation of COCO pastes them.

Shape shorthand: D detections, m side of a mask, H W pixels.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def paste_in_pixels(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the masks at the size of the image, (D, H, W) bool.

    A mask gets a margin of one zero, and its box grows with it about its center and is rounded to whole
    pixels, both ends included; the mask is resized to the box, and a pixel belongs to it above 1/2.

    Args:
        masks: (D, m, m) probabilities.
        boxes: (D, 4) x0, y0, x1, y1 in pixels of the image.
        size: (H, W).
    """
    height, width = size
    planes = np.zeros((len(masks), height, width), bool)
    side = masks.shape[-1]
    padded = np.pad(masks.detach().float().cpu().numpy(), ((0, 0), (1, 1), (1, 1)))
    corners = boxes.detach().float().cpu().numpy()
    center, half = (corners[:, :2] + corners[:, 2:]) / 2, (corners[:, 2:] - corners[:, :2]) / 2
    half = half * ((side + 2) / side)
    # Half to even.
    first, last = np.round(center - half).astype(int), np.round(center + half).astype(int)
    for plane, mask, (x0, y0), (x1, y1) in zip(planes, padded, first.tolist(), last.tolist(), strict=True):
        resized = Image.fromarray(mask).resize((x1 - x0 + 1, y1 - y0 + 1), Image.Resampling.BILINEAR)
        left, top = max(x0, 0), max(y0, 0)
        right, bottom = min(x1 + 1, width), min(y1 + 1, height)
        if left < right and top < bottom:
            plane[top:bottom, left:right] = (
                np.asarray(resized)[top - y0 : bottom - y0, left - x0 : right - x0] > 0.5
            )
    return torch.from_numpy(planes).to(masks.device)
