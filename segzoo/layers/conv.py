"""Convolutions, and the convolution-norm-ReLU block of convolutional heads."""

from collections.abc import Callable
from typing import Any

import detectron2.layers
import torch
import torch.nn.functional as F
from detectron2.layers import get_norm
from fvcore.nn.weight_init import c2_msra_fill, c2_xavier_fill
from torch import nn

from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

from .linear_layer import onednn_applies
from .runtime import autocast_type

# Normalizations that both versions of Detectron2 have and users need.
NORMS = ("BN", "SyncBN", "FrozenBN", "GN")
# Number of groups of Detectron2's GN.
_GROUPS = 32


class Conv2d(detectron2.layers.Conv2d):
    """Detectron2's convolution, with 1 x 1 convolutions by oneDNN under the same conditions as `linear`.

    PyTorch itself uses oneDNN for larger kernels, but for these only with more than one thread.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve x, (N, C, H, W) float, to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        if self.kernel_size != (1, 1) or not onednn_applies(x, self.weight):
            return super().forward(x)
        if x.dim() != 4 or x.numel() == 0 or x.shape[1] != self.in_channels:
            return super().forward(x)  # PyTorch handles these, or reports the error
        x = torch.mkldnn_convolution(
            x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)


def fast_layout(images: torch.Tensor) -> torch.Tensor:
    """Return (N, C, H, W) images in the memory format in which this machine's convolutions are fastest.

    Later layers keep the format. With channels last, a map's pixels are the rows of a matrix for `linear`.
    """
    if images.device.type == "cuda":
        return tensor_core_layout(images)
    channels_last = onednn_applies(images, images)
    return images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def tensor_core_layout(images: torch.Tensor) -> torch.Tensor:
    """Return (N, C, H, W) images with channels last where a GPU's tensor cores compute the convolutions.

    These take half precision and TF32 in this layout; other images are returned as they are.
    """
    if images.device.type != "cuda":
        return images
    half = torch.float16, torch.bfloat16
    on_tensor_cores = _convolves_in_tf32() or images.dtype in half or autocast_type(images.device) in half
    return images.contiguous(memory_format=torch.channels_last) if on_tensor_cores else images


def _convolves_in_tf32() -> bool:
    cudnn: Any = torch.backends.cudnn
    try:
        return cudnn.allow_tf32
    except RuntimeError:
        # PyTorch refuses this after the newer way to set it.
        return cudnn.conv.fp32_precision == "tf32"


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
    """Build a convolution with normalization and ReLU that keeps the size at stride 1.

    Its parameters are `weight` and, with normalization, `norm.weight`, ... Weights are initialized as in He
    et al. (2015).

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups: see `Conv2d`; the kernel size is
            odd.
        norm: see `norm_layer`.
        activation: append a ReLU.
        bias: whether the convolution has a bias; None: only without normalization.
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


def pyramid_convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: str,
    activation: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Conv2d:
    """Build a size-preserving convolution of a feature pyramid: with a norm and no bias, or with a bias.

    Weights are initialized uniformly with variance 1 / (3 fan_in), as in Detectron2's FPN.

    Args:
        in_channels, out_channels, kernel_size, activation: see `Conv2d`; the kernel size is odd.
        norm: see `norm_layer`.
    """
    convolution = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=not norm,
        norm=norm_layer(norm, out_channels),
        activation=activation,
    )
    c2_xavier_fill(convolution)
    return convolution


def norm_layer(norm: str | Callable[[int], nn.Module], channels: int) -> nn.Module | None:
    """Build a normalization with Detectron2's `get_norm`, or return None for "".

    Args:
        norm: BN | SyncBN | FrozenBN | GN, "" for none, or a function that builds it from the channels.
        channels: channels of the maps.

    Raises:
        InputError: unknown norm, or the channels cannot be grouped.
    """
    if norm == "GN" and channels % _GROUPS:
        raise InputError(
            f"norm GN makes {_GROUPS} groups of channels, but a map has {channels}; give the backbone or "
            f"the head another norm, or widths in multiples of {_GROUPS}"
        )
    try:
        return get_norm(norm, channels)
    except KeyError:
        raise InputError(f"norm {norm!r}: expected {', '.join(NORMS)}{did_you_mean(norm, NORMS)}") from None
