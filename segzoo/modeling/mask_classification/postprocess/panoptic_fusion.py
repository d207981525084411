"""Who wins each pixel of an image: the query of largest score * sigmoid(mask), of equals the first.

Letters: n queries, T tiles, k queries of a tile, r c pixels of a tile, H W pixels of the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..bilinear import MaskResizer
from .tiled_masks import Tile, TiledMasks


class Contest:
    """The winners, and how many pixels each query has of what kind.

    Two rounds. First, in each tile, those queries whose mask reaches into it and that may win there. The
    least of the winning values then tells which of the others, if any, may win a pixel of it after all.

    Args:
        masks: (Q, h, w) float mask logits.
        queries: (n,) int64, those that take part; whose mask holds NaN or infinity does not.
        scores: (n,) float > 0.
        resizer: from the masks' size to the result's.
        with_probability: also keep the winner's sigmoid(mask); only pixels where it is >= 0.5 are painted
            then.
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
        # 0 nobody, i + 1 the query i of those that take part.
        self.winner = torch.zeros(size, dtype=torch.int32, device=device)
        self.probability = torch.zeros(size, device=device) if with_probability else None
        self._scores = scores
        self._best = torch.full(size, -1.0, device=device)
        self._mask_areas = torch.zeros(self.count, dtype=torch.int64, device=device)
        if self.count:
            self._hold(TiledMasks(masks, queries, resizer))
        del self._best

    def areas(self) -> tuple[list[int], list[int], list[int]]:
        """Per query the pixels won, those of its mask (probability >= 0.5), and those to be painted."""
        won = self._histogram(self.winner)
        painted = won if self.probability is None else self._histogram(self._painted())
        return won.tolist(), self._mask_areas.tolist(), painted.tolist()

    def mean_probabilities(self) -> Tensor:
        """(n,) mean probability over the pixels to be painted; 0 where there are none."""
        painted = self._painted()
        # By rows, since single precision is all that Apple's devices have. (`bincount` with weights would
        # also differ from run to run on CUDA.)
        sums = self.probability.new_zeros((len(painted), self.count + 1))
        sums.scatter_add_(1, painted.long(), self.probability)
        return sums.sum(0)[1:] / self._histogram(painted).clamp(min=1)

    def paint(self, lookup: list[int]) -> Tensor:
        """(H, W) int32: `lookup[i + 1]` where query i is to be painted, `lookup[0]` elsewhere."""
        table = torch.tensor(lookup, dtype=torch.int32, device=self.winner.device)
        return table.index_select(0, self._painted().flatten()).view_as(self.winner)

    def _hold(self, tiled: TiledMasks) -> None:
        takes_part = tiled.upper > -torch.inf
        # Of score * sigmoid(mask) in each tile: each query's largest value, and what somebody has everywhere.
        largest = self._scores * tiled.upper.sigmoid()
        certain = (self._scores * tiled.lower.sigmoid()).amax(1)
        may_win = takes_part & (largest >= _rounded_down(certain)[:, None])
        ends = (tiled.upper >= 0) & (tiled.lower < 0)
        first_round = ends | (may_win & (tiled.upper >= 0))
        covered = ~first_round & (tiled.lower >= 0)
        self._mask_areas += (tiled.pixels[:, None] * covered).sum(0)
        for tile, rows, planes in tiled.chosen(first_round):
            self._enter(tile, rows, planes)
        certain = torch.stack([self._best[tile.rows, tile.columns].amin() for tile in tiled.tiles])
        for tile, rows, planes in tiled.chosen(
            may_win & ~first_round & (largest >= _rounded_down(certain)[:, None])
        ):
            self._enter(tile, rows, planes)

    def _enter(self, tile: Tile, rows: Tensor, planes: Tensor) -> None:
        """Queries rows (k,) compete with their logits (k, r, c), which are used up, in a tile."""
        probability = planes.sigmoid_()
        self._mask_areas[rows] += (probability >= 0.5).sum((1, 2))
        values, own = (probability * self._scores[rows, None, None]).max(0)
        place = (tile.rows, tile.columns)
        winner, best = (rows + 1).to(torch.int32)[own], self._best[place]
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
    """A little less, so that rounding can hide no winner."""
    return values * (1 - 1e-6)
