"""Memory that PyTorch's operators take on a CPU while they run, beyond their results.

oneDNN's convolutions copy weights, and maps that are not channels-last, to blocked formats. Sizes are those
that PyTorch 2.13 allocates on a CPU with AVX2.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _is_pointwise(weight: Tensor) -> bool:
    return all(length == 1 for length in weight.shape[2:])


def is_channels_last(x: Tensor) -> bool:
    """Return whether (N, C, H, W) values are stored with their channels last, and could not be otherwise."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _result_bytes(arguments: tuple, weight: Tensor) -> int:
    x, stride, padding, dilation = arguments
    pixels = 1
    for length, kernel, s, p, d in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True):
        pixels *= (length + 2 * p - d * (kernel - 1) - 1) // s + 1
    return len(x) * len(weight) * pixels * x.element_size()


def _forward(x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> int:
    if is_channels_last(x):
        return 2 * weight.nbytes
    # The blocked input and weight, then, without them, the blocked result.
    return max(x.nbytes + weight.nbytes, _result_bytes((x, stride, padding, dilation), weight))


def _convolution(arguments: tuple) -> int:
    x, weight, _, stride, padding, dilation, transposed = arguments[:7]
    # PyTorch computes these as matrix products.
    if _is_pointwise(weight) or transposed:
        return 0
    return _forward(x, weight, stride, padding, dilation)


def _mkldnn_convolution(arguments: tuple) -> int:
    x, weight, _, padding, stride, dilation = arguments[:6]
    return weight.nbytes if is_channels_last(x) else _forward(x, weight, stride, padding, dilation)


def _convolution_backward(arguments: tuple) -> int:
    gradient, x, weight, transposed = *arguments[:3], arguments[7]
    if _is_pointwise(weight) or transposed:
        return 0
    if is_channels_last(x):
        return 3 * weight.nbytes
    return max(x.nbytes + gradient.nbytes, weight.nbytes)


#: Number of bytes by operator, computed from its positional arguments.
WORKSPACES: dict[Any, Callable[[tuple], int]] = {
    torch.ops.aten.convolution.default: _convolution,
    torch.ops.aten.convolution_backward.default: _convolution_backward,
    torch.ops.aten.mkldnn_convolution.default: _mkldnn_convolution,
}
