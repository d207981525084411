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
    valid: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return sines and cosines of the normalized row and column (DETR, Carion et al. 2020, appendix A.4).

    Row i has the angle `(i + 1 + offset) / (height + eps) * 2 * pi`, columns likewise. The first half of the
    channels encodes the row, the second the column; sine and cosine of one frequency are adjacent.

    Args:
        height, width: h and w of the map, at least 1.
        channels: C, a multiple of 4.
        offset: 0 for DETR, MaskFormer and Mask2Former; -0.5 for Deformable DETR and Panoptic SegFormer.
        temperature: ratio of the longest wavelength to the shortest.
        valid: (N, 2) int64, the numbers of rows and columns of each of N maps that are not padding; positions
            are counted and normalized within them, and the last one continues on the padding.

    Returns:
        (C, h, w) float32 in [-1, 1]; (N, C, h, w) with `valid`.
    """
    if channels % 4:
        raise ValueError(f"sine position encoding: {channels} channels, expected a multiple of 4")
    exponent = torch.arange(0, channels // 2, 2, dtype=torch.float32, device=device) / (channels // 2)
    frequency = temperature**-exponent

    def encode(length: int, counted: int | torch.Tensor) -> torch.Tensor:
        """Return (..., C / 2, length), of `counted` positions: a number, or (N, 1)."""
        index = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        if isinstance(counted, torch.Tensor):
            index = torch.minimum(index, counted)
        angle = (index + offset) / (counted + 1e-6) * (2 * math.pi)
        phase = angle[..., None, :] * frequency[:, None]
        return torch.stack((phase.sin(), phase.cos()), dim=-2).flatten(-3, -2)

    counts = (height, width) if valid is None else valid.to(frequency)[..., None].unbind(1)
    rows, columns = encode(height, counts[0])[..., None], encode(width, counts[1])[..., None, :]
    return torch.cat(torch.broadcast_tensors(rows, columns), dim=-3)
