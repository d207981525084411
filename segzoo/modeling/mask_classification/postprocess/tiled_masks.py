"""Masks resized to the size of the result one tile at a time, and only where they are needed.

The values of a resized mask stay within the range of the few source pixels that it is computed from. These
bounds, cheap at the network's resolution, decide for most masks whether they are positive in a whole tile;
only the others are resized.

Shape shorthand: n queries, h w pixels of a mask, H W pixels of the result, T tiles, k queries selected in a
tile, r c pixels of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from segzoo.layers.runtime import without_autocast

from ..bilinear import MaskResizer

# On a CPU a tile of a dozen masks stays in the cache; a GPU is faster with few long vectors. Widths are
# multiples of 8, for masks that are stored as bits.
_TILE_SIZE = {"cpu": (50, 128)}
_LARGE_TILE_SIZE = (256, 512)


class Tile(NamedTuple):
    """A rectangle of the result, as slices, and the rectangle of source pixels that it depends on."""

    rows: slice
    columns: slice
    source_rows: slice
    source_columns: slice

    @property
    def pixels(self) -> int:
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)


class TiledMasks:
    """The masks of some queries, resized like `MaskResizer` up to rounding.

    Args:
        masks: (Q, h, w) float mask logits; not copied.
        queries: (n,) int64, the selected queries.
        resizer: resizes masks to the size of the result.

    Attributes:
        tiles: T tiles, in row-major order.
        lower, upper: (T, n) float32, bounds of the logits in a tile, rounding included. A query whose mask
            holds NaN or infinity has -infinity everywhere.
        pixels: (T,) int64, number of pixels of each tile.
    """

    def __init__(self, masks: Tensor, queries: Tensor, resizer: MaskResizer):
        self._masks, self._queries = masks, queries
        self._row_weights, self._column_weights = resizer.weights(masks)
        self.tiles = _tiles(resizer, tuple(masks.shape[-2:]), masks.device)
        self.pixels = torch.tensor([tile.pixels for tile in self.tiles], device=masks.device)
        lower, upper = self._extremes()
        # Wide enough also for TensorFloat-32 products, if those are allowed.
        slack = 2e-3 * torch.maximum(lower.abs(), upper.abs()) + 1e-6
        finite = slack.isfinite().all(0)
        self.lower = torch.where(finite, lower - slack, -torch.inf)
        self.upper = torch.where(finite, upper + slack, -torch.inf)

    def select(self, flags: Tensor) -> Iterator[tuple[Tile, Tensor, Tensor]]:
        """Yield each tile with at least one selected query.

        Args:
            flags: (T, n) bool.

        Yields:
            tile: the tile.
            selected: (k,) int64 in [0, n), ascending, the queries selected in it.
            planes: (k, r, c) float32 logits, a new tensor.
        """
        # One device-to-host copy for all tiles.
        tiles, queries = flags.nonzero().cpu().unbind(1)
        counts = torch.bincount(tiles, minlength=len(self.tiles)).tolist()
        for tile, selected in zip(self.tiles, queries.to(flags.device).split(counts), strict=True):
            if len(selected):
                yield tile, selected, self._resized(tile, self._queries[selected])

    def _resized(self, tile: Tile, queries: Tensor) -> Tensor:
        source = self._masks[:, tile.source_rows, tile.source_columns][queries].float()
        with without_autocast(source.device):
            across = source @ self._column_weights[tile.columns, tile.source_columns].t()
            return self._row_weights[tile.rows, tile.source_rows] @ across

    def _extremes(self) -> tuple[Tensor, Tensor]:
        """Return the (T, n) smallest and (T, n) largest source pixel of each tile."""
        lower, upper = [], []
        for index, tile in enumerate(self.tiles):
            if index == 0 or tile.source_rows != self.tiles[index - 1].source_rows:
                band = self._masks[:, tile.source_rows][self._queries].float()
                low, high = band.amin(1), band.amax(1)
            lower.append(low[:, tile.source_columns].amin(1))
            upper.append(high[:, tile.source_columns].amax(1))
        return torch.stack(lower), torch.stack(upper)


def _tiles(resizer: MaskResizer, mask_size: tuple[int, int], device: torch.device) -> list[Tile]:
    """Return all tiles of the result."""
    ranges = []
    for axis, step in enumerate(_TILE_SIZE.get(device.type, _LARGE_TILE_SIZE)):
        length = resizer.output_size[axis]
        ranges.append(
            [
                (
                    slice(start, min(start + step, length)),
                    slice(*resizer.source_range(start, min(start + step, length), axis, mask_size[axis])),
                )
                for start in range(0, length, step)
            ]
        )
    return [
        Tile(rows, columns, source_rows, source_columns)
        for rows, source_rows in ranges[0]
        for columns, source_columns in ranges[1]
    ]
