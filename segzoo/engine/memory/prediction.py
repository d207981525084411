"""Prediction of peak memory."""

import gc
from typing import NamedTuple

import torch
from detectron2.modeling import META_ARCH_REGISTRY

from segzoo.utils.errors import InputError

from .jobs import JOBS, Job
from .untouched import UntouchedMemory

# What a process holds beyond the heap of its tensors: oneDNN's compiled kernels, and what operators allocate
# inside. Chosen for SegFormer-B0 and PSPNet; docs/memory.md has the models and sizes that were measured.
_INSIDE = 0.05
_KERNELS = 15 << 20


class Predicted(NamedTuple):
    """Peak memory of a job.

    Attributes:
        tensors: number of bytes of tensors: weights, gradients, optimizer state, batch, activations.
        process: growth of the resident memory of a process on Linux, in bytes, libraries not included.
    """

    tensors: int
    process: int


def predict(kind: str, job: Job) -> Predicted:
    """Predict the peak of a kind of `JOBS` from its allocations, without computing it.

    It takes a few seconds, and minutes where losses of many masks are computed in small groups. What depends
    on values is that of outputs which are zero.

    Raises:
        InputError: the sizes of the model's tensors depend on the values of its outputs.
        RuntimeError: the model does not run at this size.
    """
    architecture = job.cfg.MODEL.META_ARCHITECTURE
    if not getattr(META_ARCH_REGISTRY.get(architecture), "fixed_shapes", True):
        raise InputError(
            f"the peak memory of {architecture} cannot be predicted: it depends on the number of boxes that "
            "the trained model finds; leave out --memory to count parameters and GFLOPs"
        )
    random_state = torch.random.get_rng_state()
    memory = UntouchedMemory()
    try:
        with memory:
            JOBS[kind](job)
    finally:
        torch.random.set_rng_state(random_state)
        gc.collect()
    return Predicted(memory.peak, int(memory.heap.peak * (1 + _INSIDE)) + _KERNELS)
