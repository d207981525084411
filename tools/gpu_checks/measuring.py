"""Times, memory, kernels and host synchronizations of a function, on a GPU or, to try it, on a CPU."""

import contextlib
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd import DeviceType

from segzoo.engine.cuda_settings import cuda_settings

from . import Rows, Settings

MEBIBYTE = 1 << 20
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def precisions(settings: Settings) -> list[str]:
    """Return the precisions to measure; a CPU has no TF32, and float16 is slow there."""
    return ["fp32", "tf32", "fp16", "bf16"] if settings.on_gpu else ["fp32", "bf16"]


@contextlib.contextmanager
def computing(precision: str, settings: Settings) -> Iterator[None]:
    """Compute in one of `precisions` inside, half precision as automatic mixed precision."""
    kind, half = torch.device(settings.device).type, HALF.get(precision)
    with (
        cuda_settings(tf32=precision == "tf32", benchmark=True),
        torch.autocast(kind, dtype=half, enabled=half is not None),
    ):
        yield


def finish(settings: Settings) -> None:
    """Wait for the device."""
    if settings.on_gpu:
        torch.cuda.synchronize(settings.device)


def milliseconds(run: Callable[[], Any], settings: Settings, seconds: float = 1.0, warm_up: int = 3) -> float:
    """Return the median time of single runs to their end on the device."""
    if settings.small:
        seconds, warm_up = 0.0, 1
    for _ in range(warm_up):
        run()
    finish(settings)
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        started = time.perf_counter()
        run()
        finish(settings)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def peak_memory(run: Callable[[], Any], settings: Settings) -> float | None:
    """Return the MiB that a run allocates on the GPU beyond what is there before; None on a CPU."""
    if not settings.on_gpu:
        return None
    finish(settings)
    torch.cuda.reset_peak_memory_stats(settings.device)
    before = torch.cuda.memory_allocated(settings.device)
    run()
    finish(settings)
    return round((torch.cuda.max_memory_allocated(settings.device) - before) / MEBIBYTE, 1)


def device_work(run: Callable[[], Any], settings: Settings) -> dict[str, Any]:
    """Return what a run gives the GPU to do: `kernels`, `copies`, `busy ms`; and the host's `waits`.

    A wait is an operation that PyTorch reports as synchronizing, such as `item`, `nonzero` or a copy from
    memory that is not page-locked. {} on a CPU.
    """
    if not settings.on_gpu:
        return {}
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        finish(settings)
    events = [event for event in profile.events() if event.device_type == DeviceType.CUDA]
    copies = [event for event in events if event.name.startswith(("Memcpy", "Memset"))]
    busy = sum(event.time_range.elapsed_us() for event in events) / 1000
    return {
        "kernels": len(events) - len(copies),
        "copies": len(copies),
        "busy ms": round(busy, 3),
        "waits": waits(run, settings),
    }


def waits(run: Callable[[], Any], settings: Settings) -> int:
    """Return how often the host waits for the GPU during a run, as far as PyTorch reports it."""
    finish(settings)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def is_installed(name: str) -> bool:
    """Return whether a package can be imported."""
    return importlib.util.find_spec(name) is not None


@contextlib.contextmanager
def failures_in_rows(rows: Rows, **columns: Any) -> Iterator[None]:
    """Turn an error inside into a row, so that the other cases of a section are still measured."""
    try:
        yield
    except Exception as error:  # of any library
        text = (str(error).strip().splitlines() or ["no message"])[0]
        rows.add(**columns, error=f"{type(error).__name__}: {text}"[:300])
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
