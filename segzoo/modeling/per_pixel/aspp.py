"""Atrous spatial pyramid pooling (Chen et al., DeepLabV3, arXiv:1706.05587, section 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.layers import conv_norm_act

from .head import resize


class ASPP(nn.Module):
    """A 1 x 1 convolution, dilated 3 x 3 convolutions and image pooling, side by side and joined.

    Args:
        in_channels: C of the map.
        channels: of each branch.
        dilations: one 3 x 3 convolution for each.
        norm: see `conv_norm_act`.
        align_corners: of the resizing of the pooled branch.
        pooling_first: put the pooled branch before the others, as NVIDIA's DeepLabV3+ does, instead of last.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        dilations: Sequence[int],
        norm: str,
        align_corners: bool,
        pooling_first: bool = False,
    ):
        super().__init__()
        self.align_corners = align_corners
        self.pooling_first = pooling_first
        self.convs = nn.ModuleList([conv_norm_act(in_channels, channels, norm=norm)])
        for dilation in dilations:
            self.convs.append(conv_norm_act(in_channels, channels, 3, norm=norm, dilation=dilation))
        self.pooling = conv_norm_act(in_channels, channels, norm=norm)
        self.out_channels = (len(self.convs) + 1) * channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, out_channels, h, w)"""
        pooled = self.pooling(F.adaptive_avg_pool2d(x, 1))
        pooled = resize(pooled, x.shape[-2:], self.align_corners)
        branches = [convolution(x) for convolution in self.convs]
        return torch.cat([pooled, *branches] if self.pooling_first else [*branches, pooled], dim=1)
