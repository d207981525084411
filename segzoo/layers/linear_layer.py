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
    # In two dimensions, since the operator would reshape others, and what a function of autograd returns must
    # be no view if it is to be written to.
    rows = x.reshape(-1, x.shape[-1])
    trained = any(tensor is not None and tensor.requires_grad for tensor in (x, weight, bias))
    product = _OneDNNLinear.apply if torch.is_grad_enabled() and trained else _product
    return product(rows, weight, bias).view(*x.shape[:-1], len(weight))


def _wants_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        onednn_applies(x, weight)
        and x.numel() * len(weight) >= _WORTHWHILE
        # PyTorch's own says what is wrong with other shapes.
        and x.shape[-1] == weight.shape[-1]
    )


def onednn_applies(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN may be called for these: it is faster here, and knows their device and type."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        # Tracing wants operators that it knows.
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
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
    """x: (L, C). Returns (L, D)."""
    # For a weight with gaps in memory oneDNN has its slow reference code only, a thousand times slower.
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDNNLinear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _product(x, weight, bias)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            linear(gradient, weight.t()) if to_x else None,
            linear(gradient.t(), x.t()) if to_weight else None,
            gradient.sum(0) if to_bias else None,
        )
