"""The threads of OpenMP, on which torch's CPU operators run: their number, how they wait, and forks.

Imports neither torch nor anything that does, since OpenMP reads its settings when it is loaded.
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
# omp_pause_hard of OpenMP 5.0: threads and all else that can be made anew is given up.
PAUSE_HARD = 2
# The number that let_threads_rest has set here, where the user had set none.
_own_numbers: list[str] = []


def let_threads_rest(environment: MutableMapping[str, str] = os.environ) -> None:
    """Makes OpenMP's threads sleep soon when they have nothing to do, and be as many as may run at a time.

    By default they spin, for milliseconds after every operator; beside other busy processes each spinning
    thread takes the processor from the one that it waits for, and a training all but stops. What the user
    has set stays. For the start of a program: it has no effect once torch is imported.
    """
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    # OpenMP itself looks at the processors, but not at the share of them that a container may use.
    if free_processors() < _bound_processors() and "OMP_NUM_THREADS" not in environment:
        environment["OMP_NUM_THREADS"] = str(free_processors())
        if environment is os.environ:
            _own_numbers.append(environment["OMP_NUM_THREADS"])


@contextlib.contextmanager
def number_left_to_user() -> Iterator[None]:
    """Leaves OMP_NUM_THREADS inside as the user has set it, or unset where let_threads_rest has chosen it.

    What it chose is the share of this process; one that is started inside has another.
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
    """How many processors this process may use at a time, at least 1."""
    shares = [math.ceil(share) for share in _cgroup_shares()]
    return max(1, min([_bound_processors(), *shares]))


def _bound_processors() -> int:
    # Not every system says.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cgroup_shares(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> Iterator[float]:
    """The processors that each control group around this process grants it, where it sets a limit.

    Args:
        root: where the file system of control groups, version 2 or 1, is mounted.
        own: the kernel's list of this process's groups, `hierarchy:controllers:path` a line.
    """
    with contextlib.suppress(OSError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            mounted = root / controllers if controllers else root
            # In a container the path may be that of the host; the group itself is then the root.
            for group in (mounted / path.lstrip("/"), *(mounted / path.lstrip("/")).parents):
                with contextlib.suppress(OSError, ValueError):
                    yield from _limit(group)
                if group == mounted:
                    break


def _limit(group: Path) -> Iterator[float]:
    """The microseconds of processor time a period, in periods, that a group may use; none without a limit."""
    if (group / "cpu.max").is_file():
        quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
    else:
        quota, period = (
            (group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period")
        )
    if quota != "max" and int(quota) > 0:
        yield int(quota) / int(period)


@functools.cache
def survive_forks() -> None:
    """Lets a forked process run torch's operators when this one has run some. Once a process.

    A fork copies the forking thread only. GNU's OpenMP in the child still counts on the others, and waits for
    them for ever at the first parallel operator. So this process gives them up before it forks, and both make
    new ones when they need them. LLVM's and Intel's OpenMP do so themselves.
    """
    given_up: list[bool] = []

    def before() -> None:
        given_up[:] = [_give_threads_up()]

    def in_child() -> None:
        if given_up == [False]:
            sys.modules["torch"].set_num_threads(1)

    os.register_at_fork(before=before, after_in_child=in_child)


def _give_threads_up() -> bool:
    """Ends the idle threads of every loaded GNU OpenMP. False if one cannot: is too old, or not found."""
    if "torch" not in sys.modules or sys.platform != "linux":
        return True
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            files = {line.rstrip("\n").split(maxsplit=5)[-1] for line in maps if "libgomp" in line}
        loaded = [file for file in files if Path(file).name.startswith("libgomp")]
        # Refused within a parallel region only, from which nothing forks.
        return all(ctypes.CDLL(path).omp_pause_resource_all(PAUSE_HARD) == 0 for path in loaded)
    except (OSError, AttributeError):
        return False
