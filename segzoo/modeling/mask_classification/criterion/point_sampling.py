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

    def for_matching(self, images: int, layers: int, count: int, like: Tensor) -> Tensor:
        """Return (images, layers, count, 2) points (x, y) in [0, 1), with the dtype and device of `like`."""
        return self._draw(("matching", 0), (images, layers, count, 2), like)

    def for_losses(self, start: int, stop: int, count: int, like: Tensor) -> Tensor:
        """Return (stop - start, count, 2) points for a range of the matched masks of a batch.

        They are numbered image by image, those of an image layer by layer.
        """
        return self._draw(("losses", start), (stop - start, count, 2), like)

    def _draw(self, purpose_and_start: tuple[str, int], shape: tuple[int, ...], like: Tensor) -> Tensor:
        purpose, start = purpose_and_start
        key = (self.seed + hash((purpose == "losses", start))) % 2**63
        generator = torch.Generator(like.device).manual_seed(key)
        return torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)


def corners(points: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the four pixels that a bilinear sample is made of.

    Args:
        points: (..., 2) float (x, y) in [0, 1]: fractions of width and height, 0 the outer edge of the first
            pixel.
        size: (height, width) of the map.

    Returns:
        indices (4, ...) int64 into the flattened map, and weights (4, ...) of the points' dtype. Pixels
        outside of the map have weight 0.
    """
    height, width = size
    column, wide = _neighbors(points[..., 0] * width - 0.5, width)
    row, tall = _neighbors(points[..., 1] * height - 0.5, height)
    indices = (row * width)[:, None] + column
    return indices.flatten(0, 1), (tall[:, None] * wide).flatten(0, 1)


def _neighbors(position: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the pixels before and after a position on a line, (2, ...) int64, and their weights."""
    first = position.floor()
    share = position - first
    indices = torch.stack((first, first + 1))
    inside = indices.clamp(0, length - 1)
    weights = torch.stack((1 - share, share)).mul_(inside == indices)
    return inside.long(), weights


def sample(maps: Tensor, places: tuple[Tensor, Tensor]) -> Tensor:
    """Return (M, P) samples of flattened maps (M, pixels) at the `corners` of points (M, P)."""
    indices, weights = places
    return sum(maps.gather(1, index) * weight for index, weight in zip(indices, weights, strict=True))


def sample_transposed(values: Tensor, places: tuple[Tensor, Tensor], out: Tensor) -> None:
    """Add to `out` (M, pixels) the gradient of `sample`, given that of its result, (M, P)."""
    for index, weight in zip(*places, strict=True):
        out.scatter_add_(1, index, values * weight)
