"""Compute boundaries of masks and label maps, as defined for Boundary IoU (Cheng et al., CVPR 2021).

The boundary of a mask is the mask without its erosion: the pixels of the mask with a pixel outside of it, or
the border of the image, at most `width` rows and columns away.

Shape shorthand: H W pixels.
"""

import math

import numpy as np

from .histogram import compiled_kernels

#: Width of a boundary relative to the image's diagonal, as published for COCO and LVIS; the default.
DILATION = 0.02


def boundary_width(size: tuple[int, ...], dilation: float) -> int:
    """Return the width in pixels, at least 1, for an image of (height, width) and a relative width."""
    return max(1, round(dilation * math.sqrt(size[0] ** 2 + size[1] ** 2)))


def map_boundaries(ids: np.ndarray, width: int) -> np.ndarray:
    """Find the boundaries of all masks of a map at once.

    Args:
        ids: (H, W) integers in [-1, 2**24), or bool; each value is a mask.
        width: width in pixels, at least 1.

    Returns:
        (H, W) bool: whether a pixel belongs to the boundary of its mask.
    """
    if ids.dtype == bool:
        ids = ids.view(np.uint8)
    compiled = compiled_kernels()
    if compiled is not None:
        sideways, near = np.empty(ids.shape, bool), np.empty(ids.shape, bool)
        last = np.empty(ids.shape[1], np.int64)
        compiled.near_others(np.ascontiguousarray(ids), width, sideways, last, near)
        return near
    import cv2

    near = np.ones(ids.shape, bool)
    inner = np.s_[width : ids.shape[0] - width, width : ids.shape[1] - width]
    if near[inner].size:
        # Exact: a float32 has 24 significant bits.
        values, kernel = ids.astype(np.float32), np.ones((2 * width + 1,) * 2, np.uint8)
        near[inner] = (cv2.erode(values, kernel) != cv2.dilate(values, kernel))[inner]
    return near


def mask_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """Return the boundary of one mask, (H, W) bool, computed within its bounding box."""
    boundary = np.zeros(mask.shape, bool)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if len(rows):
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        # Outside the box there is no mask, as outside the image.
        boundary[box] = map_boundaries(mask[box], width) & mask[box]
    return boundary
