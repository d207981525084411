"""Bool masks in an eighth of their memory: eight pixels of a row in a byte.

Shape shorthand: n masks, H W pixels, B = ceil(W / 8) bytes of a row.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Type of the device on which numpy packs.
_HOST = "cpu"


def pack_bits(masks: Tensor) -> Tensor:
    """Return (..., W) bool as (..., B) uint8 on the same device; the first pixel is the highest bit."""
    if masks.device.type == _HOST:
        return torch.from_numpy(np.packbits(masks.numpy(), axis=-1))
    padded = F.pad(masks, (0, -masks.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (padded.byte() << _shifts(masks.device)).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, size: Sequence[int]) -> Tensor:
    """Return the masks that `pack_bits` packed, as (..., H, W) bool.

    Args:
        packed: (..., H, B) uint8.
        size: (H, W).
    """
    width = int(size[1])
    if packed.device.type == _HOST:
        return torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1, count=width)).view(torch.bool)
    bits = (packed[..., None] >> _shifts(packed.device)) & 1
    return bits.flatten(-2)[..., :width].bool()


def _shifts(device: torch.device) -> Tensor:
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=device)
