"""Boxes and centers of mass of the targets of an image.

Shape shorthand: A regions of an index map, G groups of segments.
"""

import numpy as np
from detectron2.data.transforms import Transform
from scipy.ndimage import find_objects

from .label_reader import IndexMap
from .targets import Groups, region_groups


class GroupGeometry:
    """Extremes and centers of mass of groups of segments.

    Args:
        index_map: the segment of each pixel.
        groups: groups of its segments.

    Attributes:
        extremes: (G, 4) int64 first column, first row, last column, last row; -1 for a group without pixels.
        present: (G,) bool, whether a group has pixels.
    """

    def __init__(self, index_map: IndexMap, groups: Groups) -> None:
        self._indices = index_map.indices
        self._in_group = region_groups(index_map, groups)
        regions = len(self._in_group)
        extremes: np.ndarray = np.zeros((regions, 4), np.int64)
        occurs = np.zeros(regions, bool)
        for region, found in enumerate(find_objects(self._indices, regions - 1), start=1):
            if found is not None:
                rows, columns = found
                extremes[region] = columns.start, rows.start, columns.stop - 1, rows.stop - 1
                occurs[region] = True
        self._in_group &= occurs[:, None]
        self.present = self._in_group.any(0)
        chosen = self._in_group[..., None]
        largest = np.iinfo(np.int64).max
        first = np.where(chosen, extremes[:, None, :2], largest).min(0)
        last = np.where(chosen, extremes[:, None, 2:], -1).max(0)
        self.extremes = np.where(self.present[:, None], np.concatenate([first, last], 1), -1)

    @property
    def edges(self) -> np.ndarray:
        """(G, 4) float32: left, top, right and bottom edges in pixels, so that right - left is the width."""
        return (self.extremes + np.array([0, 0, 1, 1])).astype(np.float32)

    def centers(self) -> np.ndarray:
        """Return the mean x and y index of the pixels of each group that has any, (., 2) float32."""
        height, width = self._indices.shape
        indices, regions = self._indices.ravel(), len(self._in_group)
        columns = np.tile(np.arange(width, dtype=np.float64), height)
        rows = np.repeat(np.arange(height, dtype=np.float64), width)
        # Indices above A, which padding may leave, are void.
        sums = [
            np.bincount(indices, weights, minlength=regions)[:regions] for weights in (columns, rows, None)
        ]
        x, y, areas = np.stack(sums) @ self._in_group[:, self.present]
        return np.stack([x / areas, y / areas], 1).astype(np.float32)


def transformed_boxes(boxes: np.ndarray, transform: Transform, size: tuple[int, int]) -> np.ndarray:
    """Transform boxes as their image, and cut them at its borders.

    Args:
        boxes: (G, 4) x0, y0, x1, y1 in the image before the transform; integers are rounded at each step.
        transform: what was applied to the image.
        size: (height, width) after it.

    Returns:
        (G, 4) float32.
    """
    corners = boxes[:, [[0, 1], [0, 3], [2, 1], [2, 3]]].reshape(-1, 2)
    corners = transform.apply_coords(corners).reshape(-1, 4, 2)
    moved = np.concatenate([corners.min(1), corners.max(1)], 1)
    height, width = size
    return moved.clip(0, [width, height, width, height]).astype(np.float32)


def rounded_boxes(extremes: np.ndarray, transform: Transform, size: tuple[int, int]) -> np.ndarray:
    """Transform boxes of whole pixels as EntitySeg's code does: they stay integers, so a resize rounds down.

    A box can therefore be up to two pixels off its mask.

    Args:
        extremes: (G, 4) int64 x0, y0, x1, y1 in the image before the transform.
        transform: what was applied to the image.
        size: (height, width) after it.

    Returns:
        (G, 4) float32, within the image.
    """
    return transformed_boxes(extremes, transform, size)
