"""Bilinear resizing of feature maps and scores."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def resize(maps: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """(N, C, h, w) -> (N, C, *size), bilinear; the maps themselves if they have that size."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=align_corners)
