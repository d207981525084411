"""Runtime helpers: copies to the device, precision, activation checkpointing, means over processes."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def transferred(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return `tensor.to(device)`, non-blocking on CUDA devices.

    On Apple's devices a non-blocking copy may read the tensor after its memory has been reused.
    """
    return tensor.to(device, non_blocking=torch.device(device).type == "cuda")


class PendingCopy:
    """A tensor on its way from the device to the host, which computes something else meanwhile."""

    def __init__(self, tensor: Tensor):
        """Start the copy."""
        self._tensor, self._arrived = tensor.detach(), None
        if tensor.is_cuda:
            # Only into page-locked memory is a copy not waited for.
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor = host.copy_(self._tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def value(self) -> Tensor:
        """Return the tensor on the host, after waiting for what was queued before the copy."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensor.cpu()


def without_autocast(device: torch.device) -> AbstractContextManager:
    """Return a context in which operations keep the dtypes of their inputs, on any device, even `meta`."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def autocast_type(device: torch.device) -> torch.dtype | None:
    """Return the dtype that automatic mixed precision casts to on this device; None if it is off."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return None


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Run `block(x)` with activation checkpointing; batch norms update their statistics only once."""
    return checkpoint(
        block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), without_averaging(block))
    )


@contextmanager
def without_averaging(network: nn.Module) -> Iterator[None]:
    """Keep batch norms in training from updating their running statistics; their outputs are the same."""
    norms = [(module, module.momentum) for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm, _ in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum


def mean_over_processes(count: float | Tensor, device: torch.device) -> Tensor:
    """Return the mean of a number over all processes, as a float scalar on `device`."""
    return means_over_processes([count], device)[0]


def means_over_processes(counts: Sequence[float | Tensor], device: torch.device) -> Tensor:
    """Return the means of n numbers over all processes, (n,) float on `device`, by one collective call."""
    return PendingMeans(counts, device).values()


class PendingMeans:
    """Means of numbers over all processes, exchanged while this process computes something else."""

    @torch.no_grad()
    def __init__(self, counts: Sequence[float | Tensor], device: torch.device):
        """Start the only collective call, for n numbers; every process has to."""
        # By addition, because copying the numbers to the device would block.
        scalars = [torch.zeros((), dtype=torch.float32, device=device).add_(count) for count in counts]
        self._sums = torch.stack(scalars)
        self._work = None
        self._processes = 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._processes = torch.distributed.get_world_size()
            self._work = torch.distributed.all_reduce(self._sums, async_op=True)

    @torch.no_grad()
    def values(self) -> Tensor:
        """Return the means, (n,) float; of a CUDA device the stream waits for them, the host does not."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return self._sums / self._processes if self._processes > 1 else self._sums
