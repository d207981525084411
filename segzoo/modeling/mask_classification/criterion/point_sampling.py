"""Points on which masks are compared, and bilinear samples there (`grid_sample`, align_corners=False).

Shape shorthand: M maps, P points, m rows of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor


class RandomPoints:
    """Uniform random points of one training step. The same question gets the same answer, in any order.

    Another object with these two methods hands in points of its own.

    Args:
        seed: None: drawn from PyTorch's generator of the CPU, so that `torch.manual_seed` repeats a step.
    """

    def __init__(self, seed: int | None = None):
        self.seed = int(torch.randint(2**62, ())) if seed is None else seed

    def for_matching(self, image: int, layer: int, count: int, like: Tensor) -> Tensor:
        """(count, 2) points (x, y) in [0, 1), of the dtype and device of `like`."""
        return self._draw(("matching", image, layer), (count, 2), like)

    def for_losses(self, image: int, start: int, stop: int, count: int, like: Tensor) -> Tensor:
        """(stop - start, count, 2) points for some of an image's matched masks, numbered layer by layer."""
        return self._draw(("losses", image, start), (stop - start, count, 2), like)

    def _draw(self, question: tuple, shape: tuple[int, ...], like: Tensor) -> Tensor:
        purpose, image, number = question
        key = (self.seed + hash((purpose == "losses", image, number))) % 2**63
        generator = torch.Generator(like.device).manual_seed(key)
        return torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)


def corners(points: Tensor, size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """The four pixels of which a bilinear sample is made.

    Args:
        points: (..., 2) float (x, y) in [0, 1]: fractions of width and height, 0 the outer edge of the first
            pixel.
        size: (height, width) of the map.

    Returns:
        four pairs (index (...) int64 into the flattened map, weight (...) of the points' dtype). What lies
        outside of the map has weight 0.
    """
    height, width = size
    across = _neighbors(points[..., 0] * width - 0.5, width, step=1)
    down = _neighbors(points[..., 1] * height - 0.5, height, step=width)
    return [(row + column, tall * wide) for row, tall in down for column, wide in across]


def _neighbors(position: Tensor, length: int, step: int) -> list[tuple[Tensor, Tensor]]:
    """The pixels before and after a position on a line of so many, as index times `step`, and weights."""
    first = position.floor()
    share = position - first
    neighbors = []
    for index, weight in ((first, 1 - share), (first + 1, share)):
        inside = index.clamp(0, length - 1)
        neighbors.append((inside.long().mul_(step), weight * (inside == index)))
    return neighbors


def sample(maps: Tensor, places: list[tuple[Tensor, Tensor]]) -> Tensor:
    """(M, P) samples of flattened maps (M, pixels) at the `corners` of points (M, P)."""
    return sum(maps.gather(1, index) * weight for index, weight in places)


def sample_transposed(values: Tensor, places: list[tuple[Tensor, Tensor]], out: Tensor) -> None:
    """Adds to `out` (M, pixels) the gradient of `sample`, given that of its result, (M, P)."""
    for index, weight in places:
        out.scatter_add_(1, index, values * weight)
