"""The machine that measures: what it is, and what it reaches at the moment."""

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

import segzoo

from . import peer_versions
from .throughput import processor

SIDE = 1024  # of the matrices
BYTES = 64 << 20


def describe(threads: int) -> dict:
    """Return what stays the same during a run: hardware and versions."""
    return {
        "processor": _processor_with_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "segzoo": segzoo.__version__,
        "peers": peer_versions(),
    }


def _processor_with_model() -> str:
    """Return the processor's name, with the numbers that tell generations apart where names do not."""
    file = Path("/proc/cpuinfo")
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = [re.search(rf"^{key}\s*: (\d+)$", text, re.MULTILINE) for key in ("cpu family", "model")]
    numbers = [match.group(1) for match in found if match]
    return processor() + (f" (family {numbers[0]}, model {numbers[1]})" if len(numbers) == 2 else "")


def moment(clock: Callable[[], float] = time.perf_counter) -> dict:
    """Return the speed of matrix products and of copies at the moment, and the load average.

    Returns:
        "gflops": of a product of two 1024 x 1024 float32 matrices; "gigabytes_per_second": bytes that a copy
        of 64 MiB reads and writes; "load": average number of running processes in the last minute.
    """
    left, right = torch.rand(2, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).unbind()
    source = torch.zeros(BYTES, dtype=torch.uint8)
    target = torch.ones_like(source)
    return {
        "gflops": round(2e-9 * SIDE**3 / _seconds(lambda: left @ right, clock), 1),
        "gigabytes_per_second": round(2e-9 * BYTES / _seconds(lambda: target.copy_(source), clock), 1),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def _seconds(function: Callable[[], object], clock: Callable[[], float]) -> float:
    function()
    times = []
    for _ in range(5):
        start = clock()
        function()
        times.append(clock() - start)
    return max(statistics.median(times), 1e-9)


# A program that computes until its parent ends: matrix products and writes to memory, on one thread.
_NEIGHBOR = """
import os
for name in ("OMP", "OPENBLAS", "MKL"):
    os.environ[name + "_NUM_THREADS"] = "1"
import numpy
parent, matrix, memory = os.getppid(), numpy.ones((512, 512), "f"), numpy.zeros(1 << 25, "u1")
while os.getppid() == parent:
    for _ in range(20):
        matrix @ matrix
    memory += 1
"""


@contextmanager
def busy_neighbors(count: int) -> Iterator[None]:
    """Run `count` processes that compute without a pause, as another user's programs do."""
    processes = [subprocess.Popen([sys.executable, "-c", _NEIGHBOR]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait()
