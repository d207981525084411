"""Matching costs of all images at once, whether or not a cost can be computed so.

The standard costs are computed for all images together. Others, among them subclasses of the standard ones,
are called for one image at a time, as `QueryCost` and `PixelCost` describe.

Shape shorthand: N images, L layers, Q queries, S the largest number of segments of an image, B maps of
points (an image, or a layer of an image), R queries of a map, P points.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .costs import ClassCost, DiceCost, MaskCost, PixelCost, QueryCost
from .decoder_outputs import DecoderOutputs
from .pixel_losses import ComparedPixels
from .target_batch import TargetBatch
from .target_masks import SegmentTargets


def query_costs(
    cost: QueryCost, outputs: DecoderOutputs, targets: Sequence[SegmentTargets], batch: TargetBatch
) -> Tensor:
    """Return the unweighted values of a cost, (N, L, Q, S); 0 for segments that an image does not have."""
    masks = outputs.masks
    if type(cost) is ClassCost:
        return cost.batch_costs(outputs, batch)
    values = torch.zeros(
        (len(batch), masks.num_layers, masks.num_queries, batch.most),
        dtype=outputs.dtype,
        device=masks.device,
    )
    for image, target in enumerate(targets):
        # A cost is not asked about an image without segments.
        if len(target):
            own = cost.costs(outputs, image, target)
            expected = (masks.num_layers, masks.num_queries, len(target))
            _check_shape(cost, own, expected, "layers, queries, segments")
            values[image, ..., : len(target)] = own
    return values


class CostSums:
    """Sums that costs are computed from, accumulated over groups of pixels, for B maps.

    Args:
        costs: the costs.
        counts: the number of segments of each map.
    """

    def __init__(self, costs: Sequence[PixelCost], counts: Sequence[int]):
        self.costs = costs
        self.counts = counts
        self.sums: list[list[tuple[Tensor, ...]]] = []

    def add(self, logits: Tensor, membership: Tensor) -> None:
        """Add logits (B, R, P) against membership (B, P, S) in [0, 1]."""
        together = ComparedPixels(logits, membership)
        self._shape, self._like = (*logits.shape[:2], membership.shape[2]), logits
        new = [self._sums(cost, together) for cost in self.costs]
        if self.sums:
            new = [
                [tuple(map(torch.add, *pair)) for pair in zip(*both, strict=True)]
                for both in zip(self.sums, new, strict=True)
            ]
        self.sums = new

    def combined(self, num_pixels: int) -> list[Tensor]:
        """Return (B, R, S) values of each cost."""
        return [self._combined(*pair, num_pixels) for pair in zip(self.costs, self.sums, strict=True)]

    def _sums(self, cost: PixelCost, together: ComparedPixels) -> list[tuple[Tensor, ...]]:
        if type(cost) in _TOGETHER:
            return [cost.sums(together)]
        maps = zip(together.logits, together.membership, self.counts, strict=True)
        # A cost is not asked about an image without segments.
        return [
            cost.sums(ComparedPixels(logits, own[:, :count])) if count else () for logits, own, count in maps
        ]

    def _combined(self, cost: PixelCost, sums: list[tuple[Tensor, ...]], num_pixels: int) -> Tensor:
        if type(cost) in _TOGETHER:
            return cost.combine(sums[0], num_pixels)
        values = self._like.new_zeros(self._shape)
        for row, (own, count) in enumerate(zip(sums, self.counts, strict=True)):
            if count:
                found = cost.combine(own, num_pixels)
                _check_shape(cost, found, (self._shape[1], count), "queries, segments")
                values[row, :, :count] = found
        return values


# Their sums and combinations allow for dimensions before those that `PixelCost` describes.
_TOGETHER = (MaskCost, DiceCost)


def _check_shape(cost: QueryCost | PixelCost, values: Tensor, expected: tuple[int, ...], names: str) -> None:
    """Raise ValueError for another shape; a smaller one would be broadcast silently."""
    if values.shape != expected:
        raise ValueError(
            f"{type(cost).__name__} returned costs of shape {tuple(values.shape)}; expected ({names}), "
            f"{expected}"
        )
