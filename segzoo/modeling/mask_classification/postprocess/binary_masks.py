"""Binary masks with their mean probabilities and boxes.

Shape shorthand: n queries, k queries of a tile, r c pixels of a tile, H W pixels of the result, m requested
masks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..bilinear import MaskResizer
from .tiled_masks import Tile, TiledMasks


class BinaryMasks:
    """The pixels of resized masks above a threshold; only tiles with such pixels are stored.

    Args:
        masks: (Q, h, w) float mask logits, or with `values` the masks themselves.
        queries: (n,) int64, the selected queries; a mask with NaN or infinity has no pixels.
        resizer: resizes masks to the size of the result.
        threshold: pixels with a larger logit or value belong to a mask.
        values: the totals and the quality are those of the values instead of the logits' sigmoid.

    Attributes:
        size: (H, W)
        totals: (n,) float32 sum of sigmoid(mask) over the mask's pixels, or of the values.
        areas: (n,) float32 number of the mask's pixels.
        quality: (n,) float32 mean over the mask's pixels, 0 for an empty mask.
        boxes: (n, 4) float32 x0 y0 x1 y1 with exclusive maxima, zeros for an empty mask.
    """

    def __init__(
        self,
        masks: Tensor,
        queries: Tensor,
        resizer: MaskResizer,
        threshold: float = 0.0,
        values: bool = False,
    ):
        self.size = resizer.output_size
        self._device = masks.device
        count = len(queries)
        self._pieces: list[tuple[Tile, Tensor, Tensor]] = []
        height, width = self.size
        in_row = torch.zeros((count, height), dtype=torch.bool, device=self._device)
        in_column = torch.zeros((count, width), dtype=torch.bool, device=self._device)
        sums = torch.zeros((2, count), device=self._device)
        if count:
            tiled = TiledMasks(masks, queries, resizer)
            for tile, selected, planes in tiled.select(tiled.upper > threshold):
                inside = planes > threshold
                self._pieces.append((tile, selected, inside))
                in_row[selected, tile.rows] |= inside.any(2)
                in_column[selected, tile.columns] |= inside.any(1)
                added = (planes if values else planes.sigmoid_()).mul_(inside).sum((1, 2))
                sums[:, selected] += torch.stack((added, inside.sum((1, 2))))
        self.totals, self.areas = sums
        self.quality = self.totals / (self.areas + 1e-6)
        self.boxes = _boxes(in_row, in_column)

    def parts(self) -> list[list[tuple[slice, slice, Tensor]]]:
        """Return the tiles of each of the n masks: rows, columns, and which pixels are in it, (r, c) bool."""
        parts: list[list[tuple[slice, slice, Tensor]]] = [[] for _ in range(len(self.quality))]
        for tile, own, inside in self._pieces:
            for query, plane in zip(own.tolist(), inside, strict=True):
                parts[query].append((tile.rows, tile.columns, plane))
        return parts

    def planes(self, selected: Tensor) -> Tensor:
        """Return the masks of the selected queries, (m, H, W) bool.

        Args:
            selected: (m,) int64 in [0, n); contains each of the n queries at least once.
        """
        planes = torch.zeros((len(selected), *self.size), dtype=torch.bool, device=self._device)
        first: dict[int, int] = {}
        repeated = []
        for index, query in enumerate(selected.tolist()):
            if first.setdefault(query, index) != index:
                repeated.append((index, first[query]))
        place = torch.zeros(len(self.quality), dtype=torch.int64)
        place[list(first)] = torch.tensor(list(first.values()), dtype=torch.int64)
        place = place.to(self._device)
        for tile, own, inside in self._pieces:
            planes[:, tile.rows, tile.columns][place[own]] = inside
        for index, other in repeated:
            planes[index] = planes[other]
        return planes


def _boxes(in_row: Tensor, in_column: Tensor) -> Tensor:
    """Return boxes (n, 4) from (n, H) and (n, W) bool: whether a row or column has a pixel of the mask."""
    sides = []
    for flags in (in_column, in_row):
        # argmax returns the first of several maxima.
        first = flags.byte().argmax(1)
        last = flags.shape[1] - flags.flip(1).byte().argmax(1)
        sides.append(torch.stack((first, last * flags.any(1))))
    return torch.stack((sides[0][0], sides[1][0], sides[0][1], sides[1][1]), 1).float()
