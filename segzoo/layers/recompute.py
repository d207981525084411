"""Recomputing activations in the backward pass instead of keeping them."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """`block(x)`, of which only `x` is kept. Its batch norms average over each batch once, not twice."""
    return checkpoint(
        block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), without_averaging(block))
    )


@contextmanager
def without_averaging(network: nn.Module) -> Iterator[None]:
    """Batch norms in training leave their running averages alone; what they return is the same."""
    norms = [(module, module.momentum) for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm, _ in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum
