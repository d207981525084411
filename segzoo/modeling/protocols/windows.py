"""Where the windows of a sliding-window test lie, and how often they cover each pixel.

Shape shorthand: H W size of the image, h w size of a window.
"""

import math

import torch
from torch import Tensor

Size = tuple[int, int]


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one side, ascending; the last window ends at the border.

    Args:
        length: pixels of the side, at least `window`.
        window: pixels of the window.
        stride: step between windows, at most `window` or pixels would be left out.
    """
    count = math.ceil((length - window) / stride) + 1
    return [min(index * stride, length - window) for index in range(count)]


def window_corners(size: Size, window: Size, stride: Size) -> list[tuple[int, int]]:
    """(top, left) of every window over an image, row by row."""
    tops, lefts = (
        window_starts(length, side, step) for length, side, step in zip(size, window, stride, strict=True)
    )
    return [(top, left) for top in tops for left in lefts]


def tiled_size(size: Size, window: Size, stride: Size) -> Size:
    """The smallest size, none of its sides below those of `size`, that the windows fill without clamping."""
    return tuple(
        math.ceil(max(length - side, 0) / step) * step + side
        for length, side, step in zip(size, window, stride, strict=True)
    )


def coverage(size: Size, window: Size, stride: Size, device: torch.device | None = None) -> Tensor:
    """(H, W) float32: how many windows contain each pixel, at least 1."""
    counts = []
    for length, side, step in zip(size, window, stride, strict=True):
        count = torch.zeros(length, device=device)
        for start in window_starts(length, side, step):
            count[start : start + side] += 1
        counts.append(count)
    return counts[0][:, None] * counts[1]
