"""Atrous spatial pyramid pooling (Chen et al., DeepLabV3, arXiv:1706.05587, section 3.3)."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segzoo.layers import conv_norm_act

from .pooling import project_average


class ASPP(nn.Module):
    """A 1 x 1 convolution, dilated 3 x 3 convolutions and image pooling in parallel, concatenated.

    Args:
        in_channels: C of the input.
        channels: channels of each branch.
        dilations: dilations of the 3 x 3 convolutions.
        norm: see `conv_norm_act`.
        align_corners: for resizing the pooled branch.
        pooling_first: put the pooled branch before the others, as mmsegmentation and NVIDIA's DeepLabV3+ do,
            instead of last.
        separable: make the 3 x 3 convolutions depthwise separable, see `separable_conv`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        dilations: Sequence[int],
        norm: str,
        align_corners: bool,
        pooling_first: bool = False,
        separable: bool = False,
    ):
        super().__init__()
        self.align_corners = align_corners
        self.pooling_first = pooling_first
        self.convs = nn.ModuleList([conv_norm_act(in_channels, channels, norm=norm)])
        for dilation in dilations:
            if separable:
                self.convs.append(separable_conv(in_channels, channels, norm, dilation))
            else:
                self.convs.append(conv_norm_act(in_channels, channels, 3, norm=norm, dilation=dilation))
        self.pooling = conv_norm_act(in_channels, channels, norm=norm)
        self.out_channels = (len(self.convs) + 1) * channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, out_channels, h, w)."""
        pooled = project_average(x, 1, self.pooling, self.align_corners)
        branches = [convolution(x) for convolution in self.convs]
        return torch.cat([pooled, *branches] if self.pooling_first else [*branches, pooled], dim=1)


def separable_conv(in_channels: int, out_channels: int, norm: str, dilation: int = 1) -> nn.Sequential:
    """Build a depthwise separable 3 x 3 convolution, `depthwise` and `pointwise`, each with norm and ReLU."""
    depthwise = conv_norm_act(in_channels, in_channels, 3, norm=norm, dilation=dilation, groups=in_channels)
    pointwise = conv_norm_act(in_channels, out_channels, norm=norm)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))
