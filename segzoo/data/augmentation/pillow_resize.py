"""Pillow's bilinear resize of a part of an image, with the same pixels.

Pillow averages along rows, rounds to 8 bits, and averages along columns; it computes the whole image. Here
only the pixels of a window of the result are computed, by vector instructions.

Shape shorthand: H, W pixels.
"""

import functools

import numpy as np
from PIL import Image

from segzoo.utils.compiled import load_loops

#: (top, left, height, width) in pixels.
Window = tuple[int, int, int, int]

# (H, W) before and after, for the comparison with the installed Pillow: larger, smaller, and mixed.
_CHECKED = [
    ((9, 12), (23, 17)),
    ((40, 31), (13, 9)),
    ((12, 40), (31, 8)),
    ((30, 11), (30, 5)),
    ((8, 9), (3, 9)),
]


def resized_window(pixels: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray | None:
    """Return the window of `Image.resize(size, BILINEAR)`, (height, width, 3) uint8, contiguous.

    Args:
        pixels: (H, W, 3) uint8.
        size: (height, width) after the resize.

    Returns:
        None where Pillow has to compute it: numba is missing, other types, an installed Pillow with other
        results, or a height that is reduced by much more than the width, for which the order of Pillow's two
        steps depends on its version.
    """
    (height, width), (old_height, old_width) = size, pixels.shape[:2]
    # Pillow 13 then averages along columns first.
    columns_first = old_height - height > max(0, 2 * (old_width - width))
    if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,) or columns_first or not _equals_pillow():
        return None
    return _window(pixels, size, window)


def prepare_resize() -> None:
    """Compile the loops, or load them, in this process, so that processes forked from it have them."""
    _equals_pillow()


def _window(pixels: np.ndarray, size: tuple[int, int], window: Window) -> np.ndarray:
    from . import resize_loops as loops  # compiled, only if numba is there

    (old_height, old_width), (top, left, height, width) = pixels.shape[:2], window
    pixels = np.ascontiguousarray(pixels).reshape(old_height, -1)
    rows = loops.weights_of(old_height, size[0], top, height)
    first, last = rows[0].min(), (rows[0] + rows[1]).max()
    if size[1] == old_width:
        resized = np.ascontiguousarray(pixels[first:last, 3 * left : 3 * (left + width)])
    else:
        columns = loops.weights_of(old_width, size[1], left, width)
        resized = np.empty((last - first, 3 * width), np.uint8)
        loops.resize_rows(pixels[first:last], *columns, resized)
    if size[0] == old_height:
        return resized.reshape(height, width, 3)
    result = np.empty((height, 3 * width), np.uint8)
    loops.resize_columns(resized, first, *rows, result)
    return result.reshape(height, width, 3)


@functools.cache
def _equals_pillow() -> bool:
    """Return whether the loops can be compiled and agree with the installed Pillow."""
    if load_loops(f"{__package__}.resize_loops") is None:
        return False
    generator = np.random.default_rng(0)
    for old, new in _CHECKED:
        pixels = generator.integers(0, 256, (*old, 3), dtype=np.uint8)
        theirs = np.asarray(Image.fromarray(pixels).resize(new[::-1], Image.Resampling.BILINEAR))
        if not np.array_equal(_window(pixels, new, (0, 0, *new)), theirs):
            return False
    return True


@functools.lru_cache(maxsize=256)
def nearest_positions(old_side: int, new_side: int) -> np.ndarray:
    """Return the source position that Pillow's nearest-pixel resize takes for each pixel of a side."""
    positions = Image.fromarray(np.arange(old_side, dtype=np.int32)[None])
    return np.asarray(positions.resize((new_side, 1), Image.Resampling.NEAREST))[0].astype(np.intp)
