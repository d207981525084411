"""Pyramid pooling (Zhao et al., PSPNet, CVPR 2017, section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segzoo.layers import conv_norm_act

from .pooling import project_average


class PyramidPooling(nn.Module):
    """Averages over grids of several sizes, each projected, resized to the map, and concatenated with it.

    Args:
        in_channels: C of the map.
        channels: channels of each projection.
        bins: cells per side of the grids.
        norm: see `conv_norm_act`.
        align_corners: for the bilinear resizing.
    """

    def __init__(self, in_channels: int, channels: int, bins: Sequence[int], norm: str, align_corners: bool):
        super().__init__()
        self.bins = tuple(bins)
        self.align_corners = align_corners
        self.projections = nn.ModuleList(conv_norm_act(in_channels, channels, norm=norm) for _ in bins)
        self.out_channels = in_channels + len(self.bins) * channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, out_channels, h, w): the input, then the grids in the order of `bins`."""
        pooled = [
            project_average(x, side, projection, self.align_corners)
            for side, projection in zip(self.bins, self.projections, strict=True)
        ]
        return torch.cat([x, *pooled], dim=1)
