"""Modules of BiSeNet (Yu et al., ECCV 2018, sections 3.1 to 3.3).

Shape shorthand: N images, C channels, h w pixels of a feature map, H W pixels of the input.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.layers import conv_norm_act


class SpatialPath(nn.Sequential):
    """Maps the image, (N, 3, H, W), to a map of stride 8, (N, C, ceil(H / 8), ceil(W / 8)).

    Args:
        channels: channels of a 7 x 7 and two 3 x 3 convolutions of stride 2 and of a 1 x 1 convolution.
        norm: see `conv_norm_act`.
    """

    def __init__(self, channels: Sequence[int], norm: str):
        kernels, strides = (7, 3, 3, 1), (2, 2, 2, 1)
        super().__init__(
            *(
                conv_norm_act(before, after, kernel, stride=stride, norm=norm)
                for (before, after), kernel, stride in zip(
                    pairwise((3, *channels)), kernels, strides, strict=True
                )
            )
        )


class AttentionRefinement(nn.Module):
    """A 3 x 3 convolution whose channels are weighted by a gate computed from their global averages.

    Args:
        in_channels, out_channels: C of input and output.
        norm: see `conv_norm_act`.
        gate_relu: add a ReLU before the sigmoid of the gate.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str, gate_relu: bool = False):
        super().__init__()
        self.conv = conv_norm_act(in_channels, out_channels, 3, norm=norm)
        self.gate = conv_norm_act(out_channels, out_channels, norm=norm, activation=gate_relu)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C', h, w)."""
        x = self.conv(x)
        return x * self.gate(F.adaptive_avg_pool2d(x, 1)).sigmoid()


class FeatureFusion(nn.Module):
    """Fuses two maps with a 1 x 1 convolution and adds its channels weighted by a gate of global averages.

    Args:
        in_channels: channels of both maps together.
        out_channels: channels of the fused map.
        norm: see `conv_norm_act`.
        reduction: the gate has two convolutions, with `out_channels / reduction` channels between them; 0:
            one convolution with norm.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str, reduction: int = 4):
        super().__init__()
        self.conv = conv_norm_act(in_channels, out_channels, norm=norm)
        if reduction:
            self.gate = nn.Sequential(
                conv_norm_act(out_channels, out_channels // reduction, norm=""),
                conv_norm_act(out_channels // reduction, out_channels, norm="", activation=False),
            )
        else:
            self.gate = conv_norm_act(out_channels, out_channels, norm=norm)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        """Fuse two maps (N, ., h, w) to (N, C, h, w)."""
        x = self.conv(torch.cat([spatial, context], dim=1))
        return x + x * self.gate(F.adaptive_avg_pool2d(x, 1)).sigmoid()
