"""Labels of mask classification for many classes: only the classes that can win in a tile are scored.

A pixel's score of a class is the sum over queries of p(class) * probability of the mask. In a tile it is at
most the same sum with each mask's largest probability there, which one product gives for all classes. A few
classes with large bounds are scored first; in every pixel of the tile, the winner has at least the lowest of
their best scores. A class whose bound is below that cannot win.

Shape shorthand: Q queries, K classes, r c pixels of a band, R W pixels of its result, n tiles of the band.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...labels import best_scores

Resize = Callable[[Tensor], Tensor]

#: Rows of a band, and columns of a tile.
TILE = 16
# Classes with the largest bounds of a tile, which are scored first.
_FIRST = 4
# A class is dropped if its bound is this factor below the winner: sums of positive terms, rounded even to
# bfloat16 before they are multiplied, differ by less.
_SLACK = 1.02
# Scores that are computed at a time.
_ELEMENTS = 2**22


class CandidateClasses:
    """Best classes of bands of one image.

    Where the bounds drop few classes, as for class scores without a preference, the next bands are scored
    without bounds.

    Args:
        class_weights: (K, Q) float32 in [0, 1], p(class) of each query.
        width: W, columns of the result.
        source_columns: function of a range [start, stop) of columns of the result that returns the range of
            columns of a band that it depends on.
    """

    def __init__(
        self, class_weights: Tensor, width: int, source_columns: Callable[[int, int], tuple[int, int]]
    ):
        self._weights = class_weights.contiguous()
        self._all_classes = torch.arange(len(class_weights), device=class_weights.device)
        starts = range(0, width, TILE)
        tiles = [(start, min(start + TILE, width)) for start in starts]
        self._columns = _positions(tiles, class_weights.device)
        self._source = _positions([source_columns(*tile) for tile in tiles], class_weights.device)
        self._width = width
        self._skipped = self._to_skip = 0

    def labels(self, probabilities: Tensor, resize: Resize | None = None) -> Tensor:
        """Return the class of the largest score of each pixel, (R, W) int64; ties go to the first.

        Args:
            probabilities: (Q, r, c) float32 in [0, 1], masks at the size of the scores.
            resize: function that resizes (k, r, c) scores to (k, R, W), as weighted means of scores.
        """
        if self._skipped < self._to_skip:
            self._skipped += 1
            return self._best(self._all_classes, probabilities, resize)[1]
        largest = probabilities.amax(1)[:, self._source].amax(2)
        bounds = self._weights @ largest  # (K, n)
        first = torch.zeros_like(self._all_classes, dtype=torch.bool)
        first[bounds.topk(min(_FIRST, len(bounds)), dim=0).indices.flatten()] = True
        scores, labels = self._best(first.nonzero()[:, 0], probabilities, resize)
        lowest = scores.amin(0)[self._columns].amin(1)
        # NaN drops no class.
        candidates = ~(bounds * _SLACK < lowest)
        open_tiles = (candidates & ~first[:, None]).any(0)
        classes = candidates[:, open_tiles].any(1).nonzero()[:, 0]
        self._count(float(open_tiles.float().mean()) * len(classes))
        if not len(classes):
            return labels
        if resize is not None:
            return self._best((first | candidates.any(1)).nonzero()[:, 0], probabilities, resize)[1]
        columns = open_tiles.repeat_interleave(TILE)[: self._width].nonzero()[:, 0]
        labels[:, columns] = self._best(classes, probabilities[:, :, columns], None)[1]
        return labels

    def _best(self, classes: Tensor, probabilities: Tensor, resize: Resize | None) -> tuple[Tensor, Tensor]:
        """Return the largest score and its class, (R, W) each, of some ascending classes."""
        planes = probabilities.flatten(1)
        size = probabilities.shape[1:]

        def scores(part: Tensor) -> Tensor:
            product = (self._weights[part] @ planes).unflatten(1, size)
            return product if resize is None else resize(product)

        parts = classes.split(max(_ELEMENTS // max(planes.shape[1], 1), 8))
        values, places = best_scores(map(scores, parts))
        return values, classes[places.long()]

    def _count(self, scored: float) -> None:
        """Skip the bounds in 1, 3, 7, ... bands if a mean of `scored` classes was left, too many."""
        self._skipped = 0
        self._to_skip = 2 * self._to_skip + 1 if scored > len(self._weights) / 2 else 0


def _positions(ranges: list[tuple[int, int]], device: torch.device) -> Tensor:
    """Return the places in each range, (n, longest range) int64; the last one is repeated."""
    starts, stops = torch.tensor(ranges, device=device).unbind(1)
    places = starts[:, None] + torch.arange(int((stops - starts).max()), device=device)
    return torch.minimum(places, stops[:, None] - 1)
