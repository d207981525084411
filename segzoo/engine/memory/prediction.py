"""Prediction of peak memory."""

import gc
from typing import NamedTuple

import torch

from segzoo.modeling.build import find_architecture
from segzoo.utils.errors import InputError

from .jobs import JOBS, Job
from .untouched import UntouchedMemory

# What operators allocate inside and gaps that the heap's model misses, as a part of the heap of tensors.
# Chosen for the models and sizes of docs/memory.md: a prediction's few large tensors leave more gaps.
_INSIDE = {"training": 0.05, "inference": 0.10}


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
        InputError: MODEL.META_ARCHITECTURE is unknown, or the sizes of the model's tensors depend on the
            values of its outputs.
        RuntimeError: the model does not run at this size.
    """
    if not getattr(find_architecture(job.cfg), "fixed_shapes", True):
        raise InputError(
            f"the peak memory of {job.cfg.MODEL.META_ARCHITECTURE} cannot be predicted: it depends on the "
            "number of boxes that the trained model finds; leave out --memory to count parameters and GFLOPs"
        )
    random_state = torch.random.get_rng_state()
    memory = UntouchedMemory()
    try:
        with memory:
            JOBS[kind](job)
    finally:
        torch.random.set_rng_state(random_state)
        gc.collect()
    return Predicted(memory.peak, int(memory.heap.peak * (1 + _INSIDE[kind])) + memory.kernels)
