"""Masks of an image as runs of pixels, which are found on the masks' device and are all that is copied.

Shape shorthand: n masks, H W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segzoo.utils.lazy_masks import LazyMasks

from .rle import encode_runs

# Elements of the masks that are looked at together, and take about four bytes each.
_ELEMENTS_AT_ONCE = 1 << 28


@dataclass(frozen=True)
class MaskRuns:
    """n masks by the places where they change, down the columns; iterating gives their RLEs.

    Attributes:
        shape: (n, H, W).
        places: the places of all masks, one mask after the other, each mask's ascending: int32 or int64.
        ends: (n,) index in `places` after the last one of each mask.
    """

    shape: tuple[int, ...]
    places: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.places.nbytes + self.ends.nbytes

    def __iter__(self) -> Iterator[dict]:
        """Yield the RLE of each mask, as `encode_rle` returns it."""
        _, height, width = self.shape
        for start, end in zip((0, *self.ends), self.ends, strict=False):
            yield encode_runs(self.places[start:end].astype(np.int64), height, width)


def find_runs(masks: Tensor | LazyMasks) -> MaskRuns:
    """Find the runs of (n, H, W) masks, bool or numbers other than 0, on their device.

    Masks that are drawn on demand are drawn there, group by group.
    """
    count, height, width = masks.shape
    pixels = height * width
    if not count * pixels:
        return MaskRuns((count, height, width), np.zeros(0, np.int32), np.zeros(count, np.int64))
    groups = masks.groups() if isinstance(masks, LazyMasks) else iter([masks])
    step = max(_ELEMENTS_AT_ONCE // pixels, 1)
    places, numbers = [], []
    for part in (part for group in groups for part in group.split(step)):
        columns = part.bool().transpose(1, 2).reshape(len(part), pixels)
        changes = columns.clone()
        changes[:, 1:] ^= columns[:, :-1]
        numbers.append(changes.sum(1))
        places.append(changes.nonzero()[:, 1].to(torch.int32 if pixels < 1 << 31 else torch.int64))
    ends = np.cumsum(torch.cat(numbers).cpu().numpy())
    return MaskRuns((count, height, width), torch.cat(places).cpu().numpy(), ends)
