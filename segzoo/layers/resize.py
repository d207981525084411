"""Bilinear resizing of feature maps and scores."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def resize(maps: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Resize (N, C, h, w) bilinearly to (N, C, *size); return `maps` itself if the size is the same."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=align_corners)
