"""Binary masks with their mean probabilities and boxes.

Shape shorthand: n queries, k queries of a tile, r c pixels of a tile, H W pixels of the result, m requested
masks.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from segzoo.utils.lazy_masks import LazyMasks
from segzoo.utils.packed_bits import pack_bits, unpack_bits

from ..bilinear import MaskResizer
from .tiled_masks import Tile, TiledMasks


class BinaryMasks:
    """The pixels of resized masks above a threshold; only tiles with such pixels are stored, as bits.

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
        # Per tile the masks that have pixels in it, and these pixels as `pack_bits` packs them.
        self._pieces: list[tuple[Tile, Tensor, Tensor]] = []
        height, width = self.size
        in_row = torch.zeros((count, height), dtype=torch.bool, device=self._device)
        in_column = torch.zeros((count, width), dtype=torch.bool, device=self._device)
        sums = torch.zeros((2, count), device=self._device)
        if count:
            tiled = TiledMasks(masks, queries, resizer)
            for tile, selected, planes in tiled.select(tiled.upper > threshold):
                inside = planes > threshold
                self._pieces.append((tile, selected, pack_bits(inside)))
                in_row[selected, tile.rows] |= inside.any(2)
                in_column[selected, tile.columns] |= inside.any(1)
                added = (planes if values else planes.sigmoid_()).mul_(inside).sum((1, 2))
                sums[:, selected] += torch.stack((added, inside.sum((1, 2))))
        self.totals, self.areas = sums
        self.quality = self.totals / (self.areas + 1e-6)
        self.boxes = _boxes(in_row, in_column)

    def parts(self) -> list[MaskParts]:
        """Return the tiles of each of the n masks."""
        parts = [MaskParts() for _ in range(len(self.quality))]
        for tile, own, packed in self._pieces:
            for query, plane in zip(own.tolist(), packed, strict=True):
                parts[query].pieces.append((tile, plane))
        return parts

    def lazy(self, selected: Tensor) -> LazyMasks:
        """Return the masks of the selected queries, (m, H, W), in an eighth of their memory until read.

        Args:
            selected: (m,) int64 in [0, n), in any order; a query may be selected several times.
        """
        height, width = self.size
        shape = len(self.quality), height, -(-width // 8)
        packed = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        for tile, own, planes in self._pieces:
            # Tiles begin at whole bytes.
            columns = slice(tile.columns.start // 8, -(-tile.columns.stop // 8))
            packed[:, tile.rows, columns][own] = planes
        return LazyMasks(unpack_bits, self.size, packed[selected])


class MaskParts:
    """The tiles of one mask; iterating yields (rows, columns, inside): slices, and bool pixels, (r, c)."""

    def __init__(self) -> None:
        self.pieces: list[tuple[Tile, Tensor]] = []

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        for tile, plane in self.pieces:
            size = tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start
            yield tile.rows, tile.columns, unpack_bits(plane, size)


def _boxes(in_row: Tensor, in_column: Tensor) -> Tensor:
    """Return boxes (n, 4) from (n, H) and (n, W) bool: whether a row or column has a pixel of the mask."""
    sides = []
    for flags in (in_column, in_row):
        # argmax returns the first of several maxima.
        first = flags.byte().argmax(1)
        last = flags.shape[1] - flags.flip(1).byte().argmax(1)
        sides.append(torch.stack((first, last * flags.any(1))))
    return torch.stack((sides[0][0], sides[1][0], sides[0][1], sides[1][1]), 1).float()
