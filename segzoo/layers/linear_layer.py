"""Linear layers that use oneDNN on a CPU where PyTorch's default library is slow.

PyTorch computes single-precision products with MKL, whose fast kernels are for Intel's CPUs; on others
oneDNN, which PyTorch uses for convolutions, is two to four times as fast. The results agree up to rounding.
"""

import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Number of multiplications below which the overhead of the call dominates.
_WORTHWHILE = 1 << 18


class Linear(nn.Linear):
    """`nn.Linear` computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (..., in_features) float -> (..., out_features)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `F.linear`: x (..., C) float, weight (D, C), bias (D,) -> (..., D)."""
    if not _use_onednn(x, weight):
        return F.linear(x, weight, bias)
    # In two dimensions, because the operator would reshape others, and an autograd function must not return a
    # view if the result may be modified in place.
    rows = x.reshape(-1, x.shape[-1])
    trained = any(tensor is not None and tensor.requires_grad for tensor in (x, weight, bias))
    product = _OneDNNLinear.apply if torch.is_grad_enabled() and trained else _product
    return product(rows, weight, bias).view(*x.shape[:-1], len(weight))


def _use_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        onednn_applies(x, weight)
        and x.numel() * len(weight) >= _WORTHWHILE
        # PyTorch reports errors for other shapes.
        and x.shape[-1] == weight.shape[-1]
    )


def onednn_applies(x: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN is faster on this machine and supports these tensors."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        # Tracing needs standard operators.
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and onednn_is_faster()
    )


@functools.cache
def onednn_is_faster() -> bool:
    """Return whether MKL has no fast kernels for this CPU, and PyTorch has oneDNN and MKL."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return False


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute the product: x (L, C) -> (L, D)."""
    # For a weight with gaps in memory oneDNN falls back to reference code, which is a thousand times slower.
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
