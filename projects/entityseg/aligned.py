"""The bilinear upsampling of CondInst, which keeps a map's cells at their positions in the image.

A cell i of stride s lies at s * i + s // 2. The upsampled map has stride s / f, and its cells have the values
of the map at their own positions; in an ordinary resize the cells would be shifted.

Shape shorthand: M images, C channels, h w size of a map.
"""

import torch.nn.functional as F
from torch import Tensor


def aligned_upsample(maps: Tensor, factor: int) -> Tensor:
    """Upsample (M, C, h, w) float maps to (M, C, factor h, factor w)."""
    if factor == 1:
        return maps
    height, width = maps.shape[-2:]
    maps = F.pad(maps, (0, 1, 0, 1), mode="replicate")
    size = (factor * height + 1, factor * width + 1)
    maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
    shift = factor // 2
    maps = F.pad(maps, (shift, 0, shift, 0), mode="replicate")
    return maps[..., : factor * height, : factor * width]
