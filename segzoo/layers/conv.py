"""Convolutions, and the block that convolutional heads are made of: with normalization and rectifier."""

from collections.abc import Callable

import detectron2.layers
import torch
import torch.nn.functional as F
from detectron2.layers import get_norm
from fvcore.nn.weight_init import c2_msra_fill
from torch import nn

from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

from .linear_layer import onednn_applies

# The names of normalizations that both of Detectron2's versions have and users need.
NORMS = ("BN", "SyncBN", "FrozenBN", "GN")
# Of Detectron2's GN.
_GROUPS = 32


class Conv2d(detectron2.layers.Conv2d):
    """Detectron2's, whose 1 x 1 convolutions go to oneDNN where `linear` does.

    PyTorch takes oneDNN for larger kernels by itself, and for these with more than one thread only.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) float. Returns (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        if self.kernel_size != (1, 1) or not onednn_applies(x, self.weight):
            return super().forward(x)
        if x.dim() != 4 or x.numel() == 0 or x.shape[1] != self.in_channels:
            return super().forward(x)  # PyTorch's own knows these, or says what is wrong
        x = torch.mkldnn_convolution(
            x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def fast_layout(images: torch.Tensor) -> torch.Tensor:
    """The same (N, C, H, W), in the memory format in which this machine's convolutions are fastest.

    What follows keeps the format. With channels last a map's pixels are the rows of a matrix for `linear`.
    """
    channels_last = onednn_applies(images, images)
    return images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def conv_norm_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    norm: str,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    activation: bool = True,
    bias: bool | None = None,
) -> Conv2d:
    """A convolution that keeps the size at stride 1, with normalization and ReLU.

    Its parameters are `weight`, and with normalization `norm.weight`, ... Weights start as He et al. (2015)
    say.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups: of the convolution; the kernel is
            odd.
        norm: see `norm_layer`.
        activation: end in a ReLU.
        bias: of the convolution; None: only where there is no normalization.
    """
    convolution = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        groups=groups,
        bias=not norm if bias is None else bias,
        norm=norm_layer(norm, out_channels),
        activation=F.relu_ if activation else None,
    )
    c2_msra_fill(convolution)
    return convolution


def norm_layer(norm: str | Callable[[int], nn.Module], channels: int) -> nn.Module | None:
    """A normalization as Detectron2's `get_norm` makes it.

    Args:
        norm: BN | SyncBN | FrozenBN | GN, "" for none, or a function of the channels that makes it.
        channels: of the maps.

    Raises:
        InputError: unknown, or the channels cannot be grouped.
    """
    if norm == "GN" and channels % _GROUPS:
        raise InputError(
            f"norm GN makes {_GROUPS} groups of channels, and a map with it has {channels}; give the "
            f"backbone or the head another norm, or widths in multiples of {_GROUPS}"
        )
    try:
        return get_norm(norm, channels)
    except KeyError:
        raise InputError(f"norm {norm!r}: expected {', '.join(NORMS)}{did_you_mean(norm, NORMS)}") from None
