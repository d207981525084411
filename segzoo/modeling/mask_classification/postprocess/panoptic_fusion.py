"""Per-pixel argmax over queries of score * sigmoid(mask); ties go to the first.

Shape shorthand: n queries, T tiles, k queries of a tile, r c pixels of a tile, H W pixels of the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..bilinear import MaskResizer
from .tiled_masks import Tile, TiledMasks


class PixelAssignment:
    """The query that each pixel is assigned to, and the number of pixels of each query.

    Two rounds keep the number of resized masks small. In the first, each tile compares the queries that are
    positive somewhere in it and whose upper bound can win. The minimum over the tile of the best values then
    bounds which other queries, if any, can still win a pixel of the tile.

    Args:
        masks: (Q, h, w) float mask logits.
        queries: (n,) int64, the compared queries; a mask with NaN or infinity wins no pixel.
        scores: (n,) float > 0.
        resizer: resizes masks to the size of the result.
        with_probability: also keep sigmoid(mask) of the query that a pixel is assigned to, and paint only
            pixels where it is >= 0.5.
    """

    def __init__(
        self,
        masks: Tensor,
        queries: Tensor,
        scores: Tensor,
        resizer: MaskResizer,
        with_probability: bool,
    ):
        size, device = resizer.output_size, masks.device
        self.count = len(queries)
        # 0 for none, i + 1 for the i-th of the n queries.
        self.winner = torch.zeros(size, dtype=torch.int32, device=device)
        self.probability = torch.zeros(size, device=device) if with_probability else None
        self._scores = scores
        self._best = torch.full(size, -1.0, device=device)
        self._mask_areas = torch.zeros(self.count, dtype=torch.int64, device=device)
        if self.count:
            self._assign(TiledMasks(masks, queries, resizer))
        del self._best

    def areas(self) -> tuple[list[int], list[int], list[int]]:
        """Return per query the number of pixels it won, of its mask (probability >= 0.5), and painted."""
        won = self._histogram(self.winner)
        painted = won if self.probability is None else self._histogram(self._painted())
        # One device-to-host copy for all of them.
        won, of_masks, painted = torch.stack((won, self._mask_areas, painted)).tolist()
        return won, of_masks, painted

    def mean_probabilities(self) -> Tensor:
        """Return the mean probability over the painted pixels, (n,); 0 for a query without any."""
        painted = self._painted()
        # By rows, because MPS has no double precision. (`bincount` with weights is also not deterministic on
        # CUDA.)
        sums = self.probability.new_zeros((len(painted), self.count + 1))
        sums.scatter_add_(1, painted.long(), self.probability)
        return sums.sum(0)[1:] / self._histogram(painted).clamp(min=1)

    def paint(self, lookup: list[int]) -> Tensor:
        """Return (H, W) int32: `lookup[i + 1]` where the i-th query is painted, `lookup[0]` elsewhere."""
        table = torch.tensor(lookup, dtype=torch.int32, device=self.winner.device)
        return table.index_select(0, self._painted().flatten()).view_as(self.winner)

    def _assign(self, tiled: TiledMasks) -> None:
        is_finite = tiled.upper > -torch.inf
        # Bounds of score * sigmoid(mask) in each tile: per query, and of the largest value at every pixel.
        largest = self._scores * tiled.upper.sigmoid()
        certain = (self._scores * tiled.lower.sigmoid()).amax(1)
        may_win = is_finite & (largest >= _rounded_down(certain)[:, None])
        has_edge = (tiled.upper >= 0) & (tiled.lower < 0)
        first_round = has_edge | (may_win & (tiled.upper >= 0))
        covered = ~first_round & (tiled.lower >= 0)
        self._mask_areas += (tiled.pixels[:, None] * covered).sum(0)
        for tile, selected, planes in tiled.select(first_round):
            self._compare(tile, selected, planes)
        certain = torch.stack([self._best[tile.rows, tile.columns].amin() for tile in tiled.tiles])
        second_round = may_win & ~first_round & (largest >= _rounded_down(certain)[:, None])
        for tile, selected, planes in tiled.select(second_round):
            self._compare(tile, selected, planes)

    def _compare(self, tile: Tile, selected: Tensor, planes: Tensor) -> None:
        """Compare some queries, (k,), in a tile by their logits, (k, r, c), which are overwritten."""
        probability = planes.sigmoid_()
        self._mask_areas[selected] += (probability >= 0.5).sum((1, 2))
        values, own = (probability * self._scores[selected, None, None]).max(0)
        place = (tile.rows, tile.columns)
        winner, best = (selected + 1).to(torch.int32)[own], self._best[place]
        wins = (values > best) | ((values == best) & (winner < self.winner[place]))
        self.winner[place] = torch.where(wins, winner, self.winner[place])
        if self.probability is not None:
            probability = probability.gather(0, own[None])[0]
            self.probability[place] = torch.where(wins, probability, self.probability[place])
        self._best[place] = torch.maximum(values, best)

    def _painted(self) -> Tensor:
        return self.winner if self.probability is None else self.winner * (self.probability >= 0.5)

    def _histogram(self, winner: Tensor) -> Tensor:
        return torch.bincount(winner.flatten(), minlength=self.count + 1)[1:]


def _rounded_down(values: Tensor) -> Tensor:
    """Return slightly smaller values, so that rounding excludes no winning query."""
    return values * (1 - 1e-6)
