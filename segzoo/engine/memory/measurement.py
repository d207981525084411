"""Measurement of peak memory on the CPU, in a process of its own."""

import concurrent.futures.process
import ctypes
import gc
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from segzoo.utils.errors import InputError
from segzoo.utils.methods import load_methods

from .jobs import JOBS, Job

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
# Of the run that loads libraries and compiles loops before the measurement.
_WARM_SIZE = (64, 64)


class Measured(NamedTuple):
    """Peak memory of a job; see `Predicted`."""

    tensors: int
    process: int


def measure(kind: str, job: Job) -> Measured:
    """Run a kind of `JOBS` in a new process, twice: beside the profiler and alone.

    Raises:
        InputError: the operating system is not Linux, which tells a process its peak; or the new process was
            killed.
    """
    if not _STATUS.exists() or sys.platform != "linux":
        raise InputError("measuring the peak of a process needs Linux; predict it without --measure")
    return in_new_process(_measured, kind, job)


def in_new_process(function: Callable[..., Measured], *arguments: Any) -> Measured:
    """Return the result of a function that can be pickled, called in a new process.

    Raises:
        InputError: the process was killed, as the operating system does where memory is short.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except concurrent.futures.process.BrokenProcessPool:
            raise InputError(
                "the process that measured the peak was killed, perhaps because memory was short; "
                "try a smaller --size or --batch, or predict it without --measure"
            ) from None


def peak_of_tensors(kind: str, job: Job) -> int:
    """Run a job; return the peak of the bytes that PyTorch's CPU allocator holds."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        JOBS[kind](job)
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def _measured(kind: str, job: Job) -> Measured:
    load_methods()
    JOBS[kind](job._replace(size=_WARM_SIZE, batch=min(job.batch, 2)))
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    before = _resident("VmRSS")
    _RESET.write_text("5", encoding="ascii")  # the peak becomes the current value
    JOBS[kind](job)
    process = _resident("VmHWM") - before
    return Measured(peak_of_tensors(kind, job), process)


def _resident(name: str) -> int:
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10
