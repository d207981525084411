"""Positions of the windows of a sliding-window test, and the number of windows that cover each pixel.

Shape shorthand: H W size of the image, h w size of a window.
"""

import math

import torch
from torch import Tensor

Size = tuple[int, int]


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return the first pixels of the windows along one side, ascending; the last window ends at the border.

    Args:
        length: pixels of the side, at least `window`.
        window: pixels of the window.
        stride: step between windows, at most `window`, so that every pixel is covered.
    """
    count = math.ceil((length - window) / stride) + 1
    return [min(index * stride, length - window) for index in range(count)]


def window_corners(size: Size, window: Size, stride: Size) -> list[tuple[int, int]]:
    """Return (top, left) of every window over an image, row by row."""
    tops, lefts = (
        window_starts(length, side, step) for length, side, step in zip(size, window, stride, strict=True)
    )
    return [(top, left) for top in tops for left in lefts]


def tiled_size(size: Size, window: Size, stride: Size) -> Size:
    """Return the smallest size, not below `size`, that the windows fill without clamping."""
    return tuple(
        math.ceil(max(length - side, 0) / step) * step + side
        for length, side, step in zip(size, window, stride, strict=True)
    )


def coverage(size: Size, window: Size, stride: Size, device: torch.device | None = None) -> Tensor:
    """Return the number of windows that contain each pixel, (H, W) float32, at least 1."""
    counts = []
    for length, side, step in zip(size, window, stride, strict=True):
        count = torch.zeros(length, device=device)
        for start in window_starts(length, side, step):
            count[start : start + side] += 1
        counts.append(count)
    return counts[0][:, None] * counts[1]
