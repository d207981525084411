"""The block that convolutional heads are made of: convolution, normalisation, rectifier."""

from collections.abc import Callable

import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from fvcore.nn.weight_init import c2_msra_fill
from torch import nn

from segzoo.errors import InputError, did_you_mean

# The names of normalisations that both of Detectron2's versions have and users need.
NORMS = ("BN", "SyncBN", "FrozenBN", "GN")
# Of Detectron2's GN.
_GROUPS = 32


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
    """A convolution that keeps the size at stride 1, with normalisation and ReLU.

    Its parameters are `weight`, and with normalisation `norm.weight`, ... Weights start as He et al. (2015)
    say.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups: of the convolution; the kernel is
            odd.
        norm: see `norm_layer`.
        activation: end in a ReLU.
        bias: of the convolution; None: only where there is no normalisation.
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
    """A normalisation as Detectron2's `get_norm` makes it.

    Args:
        norm: BN | SyncBN | FrozenBN | GN, "" for none, or a function of the channels that makes it.
        channels: of the maps.

    Raises:
        InputError: unknown, or the channels cannot be grouped.
    """
    if norm == "GN" and channels % _GROUPS:
        raise InputError(
            f"NORM GN makes {_GROUPS} groups of channels, and a map with it has {channels}; give the "
            f"backbone or the head another NORM, or widths in multiples of {_GROUPS}"
        )
    try:
        return get_norm(norm, channels)
    except KeyError:
        raise InputError(
            f"NORM {norm!r} of MODEL.BACKBONE or MODEL.SEM_SEG_HEAD: expected {', '.join(NORMS)}"
            f"{did_you_mean(norm, NORMS)}"
        ) from None
