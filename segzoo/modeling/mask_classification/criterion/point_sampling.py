"""Points at which masks are compared, and bilinear samples there (`grid_sample`, align_corners=False).

Shape shorthand: M maps, P points, m rows of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor


class RandomPoints:
    """Uniform random points of one training step; the same arguments give the same points, in any order.

    To use other points, pass an object with the same two methods.

    Args:
        seed: seed of all points; None: drawn from PyTorch's CPU generator, so that `torch.manual_seed`
            repeats a step.
    """

    def __init__(self, seed: int | None = None):
        self.seed = int(torch.randint(2**62, ())) if seed is None else seed

    def for_matching(self, image: int, layer: int, count: int, like: Tensor) -> Tensor:
        """Return (count, 2) points (x, y) in [0, 1), with the dtype and device of `like`."""
        return self._draw(("matching", image, layer), (count, 2), like)

    def for_losses(self, image: int, start: int, stop: int, count: int, like: Tensor) -> Tensor:
        """Return (stop - start, count, 2) points for matched masks of an image, numbered layer by layer."""
        return self._draw(("losses", image, start), (stop - start, count, 2), like)

    def _draw(self, purpose_and_position: tuple, shape: tuple[int, ...], like: Tensor) -> Tensor:
        purpose, image, number = purpose_and_position
        key = (self.seed + hash((purpose == "losses", image, number))) % 2**63
        generator = torch.Generator(like.device).manual_seed(key)
        return torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)


def corners(points: Tensor, size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """Return the four pixels that a bilinear sample is made of.

    Args:
        points: (..., 2) float (x, y) in [0, 1]: fractions of width and height, 0 the outer edge of the first
            pixel.
        size: (height, width) of the map.

    Returns:
        four pairs (index (...) int64 into the flattened map, weight (...) of the points' dtype). Pixels
        outside of the map have weight 0.
    """
    height, width = size
    across = _neighbors(points[..., 0] * width - 0.5, width, step=1)
    down = _neighbors(points[..., 1] * height - 0.5, height, step=width)
    return [(row + column, tall * wide) for row, tall in down for column, wide in across]


def _neighbors(position: Tensor, length: int, step: int) -> list[tuple[Tensor, Tensor]]:
    """Return the pixels before and after a position on a line, as index times `step`, with weights."""
    first = position.floor()
    share = position - first
    neighbors = []
    for index, weight in ((first, 1 - share), (first + 1, share)):
        inside = index.clamp(0, length - 1)
        neighbors.append((inside.long().mul_(step), weight * (inside == index)))
    return neighbors


def sample(maps: Tensor, places: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return (M, P) samples of flattened maps (M, pixels) at the `corners` of points (M, P)."""
    return sum(maps.gather(1, index) * weight for index, weight in places)


def sample_transposed(values: Tensor, places: list[tuple[Tensor, Tensor]], out: Tensor) -> None:
    """Add to `out` (M, pixels) the gradient of `sample`, given that of its result, (M, P)."""
    for index, weight in places:
        out.scatter_add_(1, index, values * weight)
