"""Choice of the sampling implementation for deformable attention, with the reference and the Triton wrapper.

- rows: sums of table rows (`deformable_rows`), on a CPU, and where results must be deterministic;
- triton: kernels (`deformable_triton`), on a CUDA device with Triton installed;
- grids: `F.grid_sample`, the reference: on other devices, and in traced graphs, which need standard
operators.

For debugging, the environment variable SEGZOO_DEFORMABLE_ATTENTION overrides the choice: with "plain" the
kernels are never used; with "triton" they are used on every device, and their errors are raised.

Shape shorthand: N images, Q queries, M heads, D channels of a head, L levels, P points of a level, S pixels
of all levels.
"""

import functools
import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segzoo.utils.errors import InputError

from .deformable_rows import SampleRows

Sizes = Sequence[tuple[int, int]]
Form = Literal["rows", "triton", "grids"]

logger = logging.getLogger(__name__)

_VARIABLE = "SEGZOO_DEFORMABLE_ATTENTION"
_requested = os.environ.get(_VARIABLE, "auto")
# Why the kernels cannot be used; None if they may work.
_triton_problem = None if importlib.util.find_spec("triton") else "Triton is not installed"


def choose_form(
    device: str,
    *,
    traced: bool = False,
    deterministic: bool = False,
    triton_problem: str | None = None,
    requested: str = "auto",
) -> tuple[Form, str]:
    """Choose the sampling implementation.

    Args:
        device: type of the device, such as "cpu".
        traced: a graph is recorded, by torch.compile, torch.export or torch.jit.trace.
        deterministic: results must be bit-identical between runs.
        triton_problem: why Triton cannot be used; None if it can.
        requested: "auto", "plain" or "triton".

    Returns:
        The implementation, and the reason in a few words.

    Raises:
        InputError: `requested` is unknown, or requests kernels that cannot be used.
    """
    if requested not in ("auto", "plain", "triton"):
        raise InputError(f"{_VARIABLE}: {requested!r} is unknown, expected auto, plain or triton")
    if requested == "triton" and triton_problem:
        raise InputError(f"{_VARIABLE}: triton is requested, but {triton_problem}; set it to auto or plain")
    if traced:
        return "grids", "traced"
    if requested == "triton" or (requested == "auto" and device == "cuda" and not triton_problem):
        return "triton", device
    if device == "cpu":
        return "rows", device
    if device != "cuda":
        return "grids", device
    reason = triton_problem or f"{_VARIABLE}={requested}"
    return ("rows" if deterministic else "grids"), reason


def current_form(device: str) -> Form:
    """Return `choose_form` for the current state, and log each choice once, except in traced graphs."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    form, reason = choose_form(
        device,
        traced=traced,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        triton_problem=_triton_problem,
        requested=_requested,
    )
    if not traced:
        _log_choice(form, reason)
    return form


@functools.cache
def _log_choice(form: Form, reason: str) -> None:
    name = {"rows": "sums of table rows", "triton": "Triton kernels", "grids": "F.grid_sample"}[form]
    logger.info("deformable attention: %s (%s)", name, reason)


def sample_levels_on_grids(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """Compute `sample_levels` by its definition: `F.grid_sample` on each level."""
    num_images, num_queries, num_heads = locations.shape[:3]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    samples = []
    for level, part in enumerate(value.split([height * width for height, width in sizes], dim=1)):
        plane = part.permute(0, 2, 3, 1).reshape(num_images * num_heads, -1, *sizes[level])
        samples.append(F.grid_sample(plane, grids[:, :, level], padding_mode="zeros", align_corners=False))
    weights = weights.transpose(1, 2).reshape(num_images * num_heads, 1, num_queries, -1)
    total = (torch.cat(samples, dim=-1) * weights).sum(-1)
    return total.view(num_images, -1, num_queries).transpose(1, 2)


class SampleByTriton(torch.autograd.Function):
    """`sample_levels` with the Triton kernels. The value keeps its dtype: half precision is read as such.

    If PyTorch uses deterministic algorithms, the gradients are those of the table rows.
    """

    @staticmethod
    def forward(ctx, value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
        ctx.sizes = sizes
        ctx.save_for_backward(value, locations, weights)
        return _by_triton(
            lambda kernels: kernels.sample(value, *zip(*sizes, strict=True), locations, weights),
            lambda: sample_levels_on_grids(value.to(locations.dtype), sizes, locations, weights),
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights = ctx.saved_tensors
        needed = [ctx.needs_input_grad[index] for index in (0, 2, 3)]
        inputs = value, ctx.sizes, locations, weights
        if needed[0] and torch.are_deterministic_algorithms_enabled():
            gradients = _gradients(SampleRows.apply, *inputs, gradient)
        else:
            heights, widths = zip(*ctx.sizes, strict=True)
            needs = needed[0], needed[1] or needed[2]
            gradients = _by_triton(
                lambda kernels: kernels.sample_gradients(
                    value, heights, widths, locations, weights, gradient, *needs
                ),
                lambda: _gradients(sample_levels_on_grids, *inputs, gradient),
            )
        to_value, to_locations, to_weights = (
            gradient if need else None for gradient, need in zip(gradients, needed, strict=True)
        )
        return to_value, None, to_locations, to_weights


def _by_triton(run: Callable, plain: Callable):
    """Return `run(kernels)`, or `plain()` from the first failure of the kernels on."""
    global _triton_problem
    if _triton_problem is None:
        try:
            # Imported here because it imports Triton.
            from . import deformable_triton

            return run(deformable_triton)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # compilers and drivers raise any type
            if _requested == "triton":
                raise
            cause = (str(error).strip().splitlines() or ["no message"])[0]
            _triton_problem = f"the Triton kernels failed with {type(error).__name__}: {cause}"
            logger.warning("deformable attention: %s; using F.grid_sample instead", _triton_problem)
    return plain()


def _gradients(
    sample: Callable, value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of another implementation by autograd."""
    leaves = [tensor.detach().to(locations.dtype).requires_grad_() for tensor in (value, locations, weights)]
    with torch.enable_grad():
        sampled = sample(leaves[0], sizes, *leaves[1:])
    to_value, *to_samples = torch.autograd.grad(sampled, leaves, gradient)
    return to_value.to(value.dtype), *to_samples
