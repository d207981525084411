"""Fixed position encoding of feature maps.

Shape shorthand: C channels, h w size of the map.
"""

import math

import torch


def sine_position_encoding(
    height: int,
    width: int,
    channels: int,
    *,
    device: torch.device | str | None = None,
    offset: float = 0.0,
    temperature: float = 10000.0,
) -> torch.Tensor:
    """Return sines and cosines of the normalized row and column (DETR, Carion et al. 2020, appendix A.4).

    Row i has the angle `(i + 1 + offset) / (height + eps) * 2 * pi`, columns likewise. The first half of the
    channels encodes the row, the second the column; sine and cosine of one frequency are adjacent.

    Args:
        height, width: h and w of the map, at least 1.
        channels: C, a multiple of 4.
        offset: 0 for DETR, MaskFormer and Mask2Former; -0.5 for Panoptic SegFormer.
        temperature: ratio of the longest wavelength to the shortest.

    Returns:
        (C, h, w) float32 in [-1, 1].
    """
    if channels % 4:
        raise ValueError(f"sine position encoding: {channels} channels, expected a multiple of 4")
    exponent = torch.arange(0, channels // 2, 2, dtype=torch.float32, device=device) / (channels // 2)
    frequency = temperature**-exponent

    def encode(length: int) -> torch.Tensor:
        index = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        angle = (index + offset) / (length + 1e-6) * (2 * math.pi)
        phase = angle[None, :] * frequency[:, None]
        return torch.stack((phase.sin(), phase.cos()), dim=1).flatten(0, 1)

    rows = encode(height)[:, :, None].expand(-1, -1, width)
    columns = encode(width)[:, None, :].expand(-1, height, -1)
    return torch.cat((rows, columns))
