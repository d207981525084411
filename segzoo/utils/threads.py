"""Configure the OpenMP threads of torch's CPU operators: their number, their waiting, and forks.

This module must not import torch, directly or not, since OpenMP reads its settings when it is loaded.
"""

import contextlib
import ctypes
import functools
import math
import os
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
# The environment variables that this module may set.
OPENMP_SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
# omp_pause_hard of OpenMP 5.0: release the threads and all other resources that can be recreated.
PAUSE_HARD = 2
# The number that configure_openmp has set in this process.
_own_numbers: list[str] = []


def configure_openmp(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make idle OpenMP threads sleep, and limit their number to the available processors.

    By default idle threads spin for milliseconds after every operator; beside other busy processes each
    spinning thread takes the processor from the thread that it waits for, and training nearly stops. The
    user's settings are kept. It has no effect once torch is imported.
    """
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    # OpenMP counts the processors, but ignores the share of them that a container may use.
    if free_processors() < _bound_processors() and "OMP_NUM_THREADS" not in environment:
        environment["OMP_NUM_THREADS"] = str(free_processors())
        if environment is os.environ:
            _own_numbers.append(environment["OMP_NUM_THREADS"])


@contextlib.contextmanager
def user_thread_setting() -> Iterator[None]:
    """Restore OMP_NUM_THREADS within the block to the user's setting, or unset it.

    The number that `configure_openmp` sets is for this process; processes started in the block set their own.
    """
    before = os.environ.get("OMP_NUM_THREADS")
    if before not in _own_numbers:
        yield
        return
    del os.environ["OMP_NUM_THREADS"]
    try:
        yield
    finally:
        os.environ["OMP_NUM_THREADS"] = before


def free_processors() -> int:
    """Return the number of processors that this process may use at a time, at least 1."""
    shares = [math.ceil(share) for share in _cgroup_shares()]
    return max(1, min([_bound_processors(), *shares]))


def _bound_processors() -> int:
    # Not every system has sched_getaffinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cgroup_shares(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> Iterator[float]:
    """Yield the number of processors granted by each control group of this process that sets a limit.

    Args:
        root: mount point of the control groups' file system, version 2 or 1.
        own: the kernel's list of this process's groups, one `hierarchy:controllers:path` per line.
    """
    with contextlib.suppress(OSError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            mounted = root / controllers if controllers else root
            # In a container the path may be the host's; the group itself is then the root.
            for group in (mounted / path.lstrip("/"), *(mounted / path.lstrip("/")).parents):
                with contextlib.suppress(OSError, ValueError):
                    yield from _limit(group)
                if group == mounted:
                    break


def _limit(group: Path) -> Iterator[float]:
    """Yield the number of processors (processor time per period) that a group may use, if it is limited."""
    if (group / "cpu.max").is_file():
        quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
    else:
        quota, period = (
            (group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
        )
    if quota != "max" and int(quota) > 0:
        yield int(quota) / int(period)


@functools.cache
def make_openmp_fork_safe() -> None:
    """Let forked processes run torch's operators after this process has; once per process.

    A fork copies only the forking thread. GNU's OpenMP in the child still expects the other threads, and
    waits for them forever at the first parallel operator. So this process ends them before it forks, and both
    processes make new ones when they need them. LLVM's and Intel's OpenMP do so themselves.
    """
    ended: list[bool] = []

    def before() -> None:
        ended[:] = [_end_idle_threads()]

    def in_child() -> None:
        if ended == [False]:
            sys.modules["torch"].set_num_threads(1)

    os.register_at_fork(before=before, after_in_child=in_child)


def _end_idle_threads() -> bool:
    """End the idle threads of every loaded GNU OpenMP; return False if one is too old or not found."""
    if "torch" not in sys.modules or sys.platform != "linux":
        return True
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            files = {line.rstrip("\n").split(maxsplit=5)[-1] for line in maps if "libgomp" in line}
        loaded = [file for file in files if Path(file).name.startswith("libgomp")]
        # It is refused only within a parallel region, from which nothing forks.
        return all(ctypes.CDLL(path).omp_pause_resource_all(PAUSE_HARD) == 0 for path in loaded)
    except (OSError, AttributeError):
        return False
