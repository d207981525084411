"""Boxes as center and size or as edges, and their generalized IoU (Rezatofighi et al. 2019).

Shape shorthand: Q, G boxes.
"""

import torch
from torch import Tensor

_EPS = 1e-6


def edges(boxes: Tensor) -> Tensor:
    """Convert (..., 4) center x and y, width and height to left, top, right, bottom."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat((center - 0.5 * size, center + 0.5 * size), dim=-1)


def centers(boxes: Tensor) -> Tensor:
    """Convert (..., 4) left, top, right, bottom to center x and y, width and height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the generalized IoU, in [-1, 1], of boxes (..., 4) as edges; their shapes are broadcast.

    `generalized_iou(a[:, None], b)` compares all pairs of Q and G boxes, (Q, G).
    """
    overlap = _area(
        torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    )
    areas = [(boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) for boxes in (first, second)]
    union = (areas[0] + areas[1] - overlap).clamp(min=_EPS)
    hull = _area(
        torch.minimum(first[..., :2], second[..., :2]), torch.maximum(first[..., 2:], second[..., 2:])
    )
    hull = hull.clamp(min=_EPS)
    return overlap / union - (hull - union) / hull


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(-1)
