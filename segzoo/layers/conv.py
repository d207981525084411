"""The block that convolutional heads are made of: convolution, normalisation, rectifier."""

import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from fvcore.nn.weight_init import c2_msra_fill


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
        norm: BN | SyncBN | FrozenBN | GN | LN, or "" for none.
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
        norm=get_norm(norm, out_channels),
        activation=F.relu_ if activation else None,
    )
    c2_msra_fill(convolution)
    return convolution
