"""Linear layers that a CPU computes by oneDNN, where the library that PyTorch takes would be slow.

PyTorch hands single-precision products to MKL, whose fast kernels are for Intel's CPUs; on others oneDNN,
with which PyTorch computes convolutions, is two to four times as fast. The results agree to rounding.
"""

import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Multiplications below which the call itself takes longest.
_WORTHWHILE = 1 << 18


class Linear(nn.Linear):
    """`nn.Linear` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features) float. Returns (..., out_features)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x (..., C) float, weight (D, C), bias (D,) -> (..., D)."""
    if not _wants_onednn(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _OneDNNLinear.apply(x, weight, bias)
    return _product(x, weight, bias)


def _wants_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        # Tracing wants operators that it knows.
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and x.numel() * len(weight) >= _WORTHWHILE
        and onednn_is_faster()
    )


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this is a CPU that MKL has no fast kernels for, and a PyTorch with oneDNN and MKL."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_x = _product(gradient, weight.t(), None)
        gradient = gradient.reshape(-1, len(weight))
        if ctx.needs_input_grad[1]:
            to_weight = _product(gradient.t(), x.reshape(len(gradient), -1).t(), None)
        if ctx.needs_input_grad[2]:
            to_bias = gradient.sum(0)
        return to_x, to_weight, to_bias
