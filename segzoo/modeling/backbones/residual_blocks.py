"""The stem and the block of ResNet and its successors (He et al. 2015; He et al. 2018).

Shape shorthand: N images, C channels, H W size of the input.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.layers import CNNBlockBase
from fvcore.nn.weight_init import c2_msra_fill
from torch import nn

from segzoo.layers import Conv2d, DropPath
from segzoo.layers.conv import norm_layer
from segzoo.layers.deform_conv import DeformConv2d
from segzoo.utils.errors import InputError


class Deformable(NamedTuple):
    """The kind of a deformable convolution.

    Attributes:
        modulated: with a factor for each tap of the kernel (DCNv2), or with offsets only (DCNv1).
        groups: number of groups of channels with offsets of their own.
    """

    modulated: bool = False
    groups: int = 1


class DeepStem(CNNBlockBase):
    """Three 3 x 3 convolutions and a max-pool instead of a 7 x 7 convolution and a max-pool."""

    def __init__(self, in_channels: int, channels: tuple[int, int, int], norm: str):
        super().__init__(in_channels, channels[-1], stride=4)
        for index, (before, after) in enumerate(pairwise((in_channels, *channels))):
            convolution = _convolution(before, after, 3, norm, stride=2 if index == 0 else 1)
            convolution.activation = F.relu_
            self.add_module(f"conv{index + 1}", convolution)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Downsample images, (N, 3, H, W) float, to (N, C, ceil(H / 4), ceil(W / 4))."""
        return F.max_pool2d(self.conv3(self.conv2(self.conv1(image))), kernel_size=3, stride=2, padding=1)


class ResidualBlock(CNNBlockBase):
    """Convolutions `conv1`, `conv2`, ..., a `shortcut` if the shape changes, and a ReLU of the sum."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        block_type: str,
        stride: int = 1,
        dilations: tuple[int, ...] = (1, 1),
        norm: str | Callable = "BN",
        pooled_shortcut: bool = False,
        drop_path_rate: float = 0.0,
        stride_in_1x1: bool = False,
        deformable: Deformable | None = None,
        inner_channels: int = 0,
        groups: int = 1,
    ):
        """
        Args:
            in_channels, out_channels: channels of the block's input and output.
            block_type: "basic" or "bottleneck", see `ResNetVariant`.
            stride: stride of the first 3 x 3 convolution, or with `stride_in_1x1` of the convolution before.
            dilations: dilations of the 3 x 3 convolutions; a bottleneck uses only the first.
            norm: name of the normalization for `get_norm`.
            pooled_shortcut: see `ResNetVariant`.
            drop_path_rate: probability of dropping the convolutions for an image, in training.
            stride_in_1x1: the first 1 x 1 convolution of a bottleneck has the stride, as in Caffe's networks.
            deformable: make a bottleneck's 3 x 3 convolution deformable; `conv2_offset` computes its offsets.
            inner_channels: channels of a bottleneck's first two convolutions; 0: a quarter of `out_channels`.
            groups: groups of a bottleneck's 3 x 3 convolution (ResNeXt).

        Raises:
            InputError: a deformable basic block, a deformable convolution with groups, or channels that the
                deformable groups do not divide.
        """
        super().__init__(in_channels, out_channels, stride)
        offsets = None
        if block_type == "bottleneck":
            inner = inner_channels or out_channels // 4
            first_stride, second_stride = (stride, 1) if stride_in_1x1 else (1, stride)
            middle = inner, inner, 3, norm, second_stride, dilations[0]
            layers = [
                _convolution(in_channels, inner, 1, norm, first_stride),
                _convolution(*middle, groups)
                if deformable is None
                else _deformable_convolution(*middle, deformable.groups),
                _convolution(inner, out_channels, 1, norm),
            ]
            if deformable is not None:
                if groups != 1:
                    raise InputError(f"a deformable convolution has no groups here; found {groups}")
                offsets = _offset_convolution(layers[1], deformable.modulated)
        else:
            if deformable is not None:
                raise InputError(
                    "only bottleneck blocks can be deformable; found a basic block, as in r18 and r34"
                )
            layers = [
                _convolution(in_channels, out_channels, 3, norm, stride, dilations[0]),
                _convolution(out_channels, out_channels, 3, norm, 1, dilations[1]),
            ]
        # Keep Detectron2's order of parameters, which optimizer states depend on.
        self.pool = None
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            if pooled_shortcut and stride != 1:
                self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            self.shortcut = _convolution(in_channels, out_channels, 1, norm, 1 if self.pool else stride)
        for index, layer in enumerate(layers, start=1):
            if index == 2:
                self.conv2_offset = offsets
            self.add_module(f"conv{index}", layer)
        self.num_convolutions = len(layers)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x, (N, C, H, W) float, to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        branch = self.conv1(x)
        branch = F.relu_(branch)
        if self.conv2_offset is None:
            branch = self.conv2(branch)
        else:
            branch = self.conv2(branch, *self._offsets(branch))
        if self.num_convolutions == 3:
            branch = self.conv3(F.relu_(branch))
        if self.drop_path is not None:
            branch = self.drop_path(branch)
        if self.pool is not None:
            x = self.pool(x)
        if self.shortcut is not None:
            x = self.shortcut(x)
        branch += x
        return F.relu_(branch)

    def _offsets(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the offsets and the modulation, or None without it, of the 3 x 3 convolution."""
        maps = self.conv2_offset(x)
        number = self.conv2.offset_channels
        return maps[:, :number], maps[:, number:].sigmoid() if maps.shape[1] > number else None


def _convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: str | Callable,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Conv2d:
    convolution = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        groups=groups,
        bias=False,
        norm=norm_layer(norm, out_channels),
    )
    c2_msra_fill(convolution)
    return convolution


def _deformable_convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: str | Callable,
    stride: int,
    dilation: int,
    deformable_groups: int,
) -> DeformConv2d:
    return DeformConv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        deformable_groups=deformable_groups,
        bias=False,
        norm=norm_layer(norm, out_channels),
    )


def _offset_convolution(layer: DeformConv2d, modulated: bool) -> Conv2d:
    """Build the convolution that gives a layer's offsets, followed by the logits of its modulation; all 0."""
    convolution = Conv2d(
        layer.in_channels,
        layer.offset_channels + (layer.mask_channels if modulated else 0),
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
    )
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return convolution
