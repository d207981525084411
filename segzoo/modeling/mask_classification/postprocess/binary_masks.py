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
    """The pixels of resized masks with a logit > 0; only tiles with such pixels are stored.

    Args:
        masks: (Q, h, w) float mask logits.
        queries: (n,) int64, the selected queries; a mask with NaN or infinity has no pixels.
        resizer: resizes masks to the size of the result.

    Attributes:
        size: (H, W)
        quality: (n,) float32 mean of sigmoid(mask) over the mask's pixels, 0 for an empty mask.
        boxes: (n, 4) float32 x0 y0 x1 y1 with exclusive maxima, zeros for an empty mask.
    """

    def __init__(self, masks: Tensor, queries: Tensor, resizer: MaskResizer):
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
            for tile, selected, planes in tiled.select(tiled.upper > 0):
                inside = planes > 0
                self._pieces.append((tile, selected, inside))
                in_row[selected, tile.rows] |= inside.any(2)
                in_column[selected, tile.columns] |= inside.any(1)
                probability = planes.sigmoid_().mul_(inside).sum((1, 2))
                sums[:, selected] += torch.stack((probability, inside.sum((1, 2))))
        self.quality = sums[0] / (sums[1] + 1e-6)
        self.boxes = _boxes(in_row, in_column)

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
