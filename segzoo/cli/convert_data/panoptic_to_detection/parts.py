"""Dividing a stuff segment into parts: connected regions, of which small ones join their nearest neighbors.

The size of a region is the geometric mean of the sides of its box; the distance of two regions is the
smallest one between corners of their boxes.

Shape shorthand: H, W pixels; n regions.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

# In pixels: a smaller region, if not the largest, always joins another one.
SMALL = 32
# Number of regions up to which all are kept at first.
KEPT = 4


class Part(NamedTuple):
    """A part of a segment.

    Attributes:
        mask: (H, W) bool.
        bbox: x, y, width, height in pixels, as floats.
        area: number of pixels.
    """

    mask: np.ndarray
    bbox: list[float]
    area: int


def divide(mask: np.ndarray) -> list[Part]:
    """Return the parts of a mask, (H, W) bool with at least one pixel, the smallest box first."""
    window = ndimage.find_objects(mask.astype(np.uint8))[0]
    regions, _ = ndimage.label(mask[window], structure=np.ones((3, 3)))
    rows, columns = window
    boxes = np.array(
        [
            (x.start + columns.start, y.start + rows.start, x.stop + columns.start, y.stop + rows.start)
            for y, x in ndimage.find_objects(regions)
        ],
        dtype=np.float64,
    )
    part_of, boxes = _merge_small(boxes)
    joined, boxes = _merge_close(boxes)
    # 0 stays outside.
    table = np.append(-1, joined[part_of])
    areas = np.bincount(table[regions].ravel() + 1, minlength=len(boxes) + 1)[1:]
    parts = []
    for number, (left, top, right, bottom) in enumerate(boxes.tolist()):
        whole = np.zeros(mask.shape, dtype=bool)
        whole[window] = (table == number)[regions]
        parts.append(Part(whole, [left, top, right - left, bottom - top], int(areas[number])))
    return parts


def _merge_small(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unite all but the largest regions with the nearest of these.

    Returns:
        (n,) the number of the group that each region belongs to; (m, 4) the groups' boxes.
    """
    sizes = _sizes(boxes)
    order = np.argsort(sizes, kind="stable")
    kept = len(boxes)
    if kept > KEPT:
        ascending = sizes[order]
        kept = min(KEPT, max(1, int((sizes >= SMALL).sum())))
        while kept < len(boxes) and ascending[-kept] > SMALL:
            kept += 1
    small, large = order[: len(boxes) - kept], order[len(boxes) - kept :]
    group_of = np.zeros(len(boxes), dtype=np.int64)
    group_of[large] = np.arange(kept)
    for region in small:
        group_of[region] = _distances(boxes[region], boxes[large]).argmin()
    return group_of, _united(boxes, group_of, kept)


def _merge_close(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unite, from the smallest on, each group that is small or close to its nearest larger one with that one.

    Returns:
        (m,) the number of the part that each group belongs to; (p, 4) the parts' boxes, by increasing size of
        their largest group.
    """
    sizes = _sizes(boxes)
    order = np.argsort(sizes, kind="stable")
    sizes, ordered = sizes[order], boxes[order]
    target = np.arange(len(boxes))
    for number in range(len(boxes) - 1):
        distances = _distances(ordered[number], ordered[number + 1 :])
        nearest = int(distances.argmin())
        other = number + 1 + nearest
        if distances[nearest] < sizes[number] + sizes[other] or sizes[number] < SMALL:
            target[number] = other
    for number in reversed(range(len(boxes))):
        # Targets are larger, so they are final already.
        target[number] = target[target[number]]
    remaining, part_of_ordered = np.unique(target, return_inverse=True)
    part_of = np.zeros(len(boxes), dtype=np.int64)
    part_of[order] = part_of_ordered
    return part_of, _united(boxes, part_of, len(remaining))


def _sizes(boxes: np.ndarray) -> np.ndarray:
    return np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _corners(boxes: np.ndarray) -> np.ndarray:
    return boxes[..., [0, 1, 2, 1, 0, 3, 2, 3]].reshape(*boxes.shape[:-1], 4, 2)


def _distances(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return (n,) the smallest distance between a corner of a box, (4,), and one of each other, (n, 4)."""
    offsets = _corners(box)[None, :, None] - _corners(others)[:, None]
    return np.sqrt((offsets**2).sum(axis=-1)).min(axis=(1, 2))


def _united(boxes: np.ndarray, number_of: np.ndarray, count: int) -> np.ndarray:
    """Return (count, 4) the boxes around all boxes of the same number."""
    united = np.tile(np.array([np.inf, np.inf, -np.inf, -np.inf]), (count, 1))
    np.minimum.at(united[:, :2], number_of, boxes[:, :2])
    np.maximum.at(united[:, 2:], number_of, boxes[:, 2:])
    return united
