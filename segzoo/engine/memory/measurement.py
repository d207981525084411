"""Measurement of peak memory on the CPU, in a process of its own."""

import concurrent.futures.process
import contextlib
import ctypes
import gc
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from segzoo.utils.errors import InputError
from segzoo.utils.methods import load_methods

from .jobs import JOBS, Job

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
# Of the run that loads libraries and compiles loops before the measurement. Its batch differs from the job's,
# so that kernels for the job's shapes are compiled in the measurement; batch norm may need 2.
_WARM_SIZE = (64, 64)
_WARM_BATCHES = (2, 3)


class Measured(NamedTuple):
    """Peak memory of a job; see `Predicted`.

    Attributes:
        tensors: number of bytes.
        process: number of bytes; None if the system does not tell it.
        reason: why it does not; "" if it does.
    """

    tensors: int
    process: int | None
    reason: str = ""


def measure(kind: str, job: Job) -> Measured:
    """Run a kind of `JOBS` in a new process, twice: beside the profiler and alone.

    Raises:
        InputError: the new process was killed.
    """
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
    profile = torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True)
    with _without_stderr():
        profile.start()
    try:
        JOBS[kind](job)
    finally:
        with _without_stderr():
            profile.stop()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Discard what C++ code writes: the profiler reports that it starts and stops, at every log level."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _measured(kind: str, job: Job) -> Measured:
    load_methods()
    batch = next(batch for batch in _WARM_BATCHES if batch != job.batch)
    JOBS[kind](job._replace(size=_WARM_SIZE, batch=batch))
    process, reason = growth_of_process(JOBS[kind], job)
    return Measured(peak_of_tensors(kind, job), process, reason)


def growth_of_process(work: Callable[[Any], Any], argument: Any) -> tuple[int | None, str]:
    """Call a function; return by how many bytes this process grew at most, or None and the reason.

    Where the peak so far cannot be forgotten, it is known only if it was exceeded.
    """
    gc.collect()
    if not sys.platform.startswith("linux"):
        return None, "this system does not tell a process its peak, as Linux does"
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    before, obstacle = _resident("VmRSS"), ""
    try:
        _RESET.write_text("5", encoding="ascii")  # the peak becomes the current value
    except OSError as error:
        obstacle = f"{_RESET} is not writable ({error.strerror})"
    earlier = _resident("VmHWM")
    if before is None or earlier is None:
        return None, f"{_STATUS} lists no VmRSS and VmHWM"
    work(argument)
    peak = _resident("VmHWM") or 0
    if obstacle and peak <= earlier:
        return None, f"{obstacle}, and the peak is below that of loading libraries; try a larger --size"
    return peak - before, ""


def _resident(name: str) -> int | None:
    """Return a number of bytes from the process's status, None if it is missing there."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), None)
