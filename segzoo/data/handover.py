"""Batches on their way from data-loading processes: handed over, or the reason why they cannot be.

By itself torch hands a batch over in a thread of the worker. What fails there (no shared memory left, no file
descriptors) is lost, and the process that waits for the batch waits for ever. Here a batch is put into shared
memory by the worker's main thread, and whoever waits looks up from time to time.
"""

import contextlib
import errno
import os
import pickle
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils import signal_handling

from segzoo.utils.errors import InputError

from .sampling import Failure
from .workers import out_of_reach

# Seconds between two looks at what else may have happened.
LOOK_UP = 2
# Seconds for which workers may do nothing at all before they count as hanging.
IDLE = 300.0

_SHARED_MEMORY = Path("/dev/shm")
_TIMED_OUT = "DataLoader timed out"
_WORKER_ENDED = re.compile(
    r"^DataLoader worker \(pid.*\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)"
)
_NO_FILES_AT_ALL = re.compile(r"Too many open files in system")
_NO_FILES = re.compile(r"Too many open files|received \d+ items of ancdata")
_NO_MEMORY = re.compile(r"shared memory|\bshm\b|No space left on device|Bus error")
# Of a batch, in a RuntimeError of torch; an OSError says it of a process that cannot be started.
_NO_MAPPING = re.compile(r"Cannot allocate memory")
_USED_UP = (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


class Parcel(NamedTuple):
    """A batch in shared memory: what the process that opens it has to know."""

    content: bytes


def hand_over(batch: list[Any]) -> Any:
    """Return the collate function: a `Parcel` in a worker, or [Failure]; the batch itself where there are none."""
    worker = get_worker_info()
    if worker is None:
        return batch
    try:
        return Parcel(bytes(ForkingPickler.dumps(batch)))
    except (OSError, RuntimeError) as error:
        reason = cannot_hand_over(error, worker.num_workers)
        if reason is None:
            raise
        return [Failure(reason)]


def received(loader: DataLoader, while_waiting: Callable[[float], None]) -> Iterator[list[Any]]:
    """Yield the batches of a loader whose collate function is `hand_over`.

    Args:
        while_waiting: called every few seconds of a longer wait, with the seconds so far; may raise.

    Raises:
        InputError: a batch cannot come: what is used up, or that a worker has ended or hangs.
    """
    if not loader.num_workers:
        yield from loader
        return
    with _explained(loader.num_workers), out_of_reach():
        batches = iter(loader)
    try:
        yield from _watched(batches, loader.num_workers, while_waiting)
    except GeneratorExit:
        raise
    except BaseException:
        _end(batches)
        raise


def _watched(
    batches: Iterator[Any], workers: int, while_waiting: Callable[[float], None]
) -> Iterator[list[Any]]:
    processes = getattr(batches, "_workers", ())
    watch = _Watch([process.pid for process in processes])
    since = time.monotonic()
    while True:
        try:
            with _explained(workers, processes):
                batch = next(batches)
                batch = _opened(batch) if isinstance(batch, Parcel) else batch
        except StopIteration:
            return
        except RuntimeError as error:
            if _TIMED_OUT not in str(error):
                raise
            while_waiting(time.monotonic() - since)
            if watch.idle_for() > IDLE:
                raise InputError(
                    f"no batch for {IDLE / 60:.0f} minutes, in which the {workers} data-loading "
                    f"processes did nothing ({limits()}); DATALOADER.NUM_WORKERS 0 loads in the main process "
                    "and shows what they wait for"
                ) from None
            continue
        yield batch
        watch.reset()
        since = time.monotonic()


def _end(batches: Any) -> None:
    """End the workers by force: one that hangs would be waited for at the end of this process."""
    with contextlib.suppress(AttributeError):
        # torch would report that they have ended.
        signal_handling._remove_worker_pids(id(batches))
        batches._worker_pids_set = False
    for worker in getattr(batches, "_workers", ()):
        worker.kill()


def _opened(parcel: Parcel) -> list[Any]:
    try:
        return pickle.loads(parcel.content)
    except (ConnectionError, EOFError, FileNotFoundError):
        # Its worker is gone; why, torch reports in the main thread as soon as the system has told it.
        time.sleep(1.0)
        raise RuntimeError("DataLoader worker (pid unknown) exited unexpectedly") from None


@contextlib.contextmanager
def ended_workers_explained(workers: int) -> Iterator[None]:
    """Around what uses a loader: torch reports the end of a worker wherever the main thread is just then.

    Raises:
        InputError: inside, in place of that.
    """
    try:
        yield
    except RuntimeError as error:
        if not _WORKER_ENDED.search(str(error)):
            raise
        raise InputError(cannot_hand_over(error, workers)) from None


@contextlib.contextmanager
def _explained(workers: int, processes: Sequence[BaseProcess] = ()) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = cannot_hand_over(_with_signal(error, processes), workers)
        if reason is None:
            raise
        raise InputError(reason) from None


def _with_signal(error: Exception, processes: Sequence[BaseProcess]) -> Exception:
    """Add the signal that has ended a worker where torch does not tell it, as it may see the end first."""
    ended = _WORKER_ENDED.search(str(error))
    if ended and not ended[1]:
        for process in processes:
            if (status := process.exitcode or 0) < 0:
                name = signal.strsignal(-status)
                return RuntimeError(f"DataLoader worker (pid {process.pid}) is killed by signal: {name}")
    return error


def cannot_hand_over(error: Exception, workers: int) -> str | None:
    """Return what is wrong with the way from `workers` processes, in one line; None for an error of another kind."""
    message = " ".join(str(error).split())
    used_up = getattr(error, "errno", None) in _USED_UP
    # That of a file has its name, and what a dataset raises in a worker a traceback: both are other matters.
    if message.startswith("Caught ") or (isinstance(error, OSError) and (error.filename or not used_up)):
        return None
    ended = _WORKER_ENDED.search(message)
    fewer = f"lower DATALOADER.NUM_WORKERS (now {workers}; 0 needs none)"
    if _NO_FILES_AT_ALL.search(message):
        return (
            "a batch cannot be handed over by a data-loading process: too many open files on the whole "
            f"machine (/proc/sys/fs/file-nr); end other programs, or {fewer}"
        )
    if _NO_FILES.search(message):
        return (
            f"a batch cannot be handed over by a data-loading process: too many open files ({limits()}); "
            f"raise the limit (ulimit -n 65536), or {fewer}"
        )
    if _NO_MAPPING.search(message) and not isinstance(error, OSError):
        return (
            f"a batch cannot be handed over by a data-loading process: no memory left ({limits()}); "
            f"{fewer}, or give the job more memory"
        )
    if _NO_MEMORY.search(message):
        return (
            f"a batch cannot be handed over by a data-loading process: no shared memory left ({limits()}); "
            f"enlarge {_SHARED_MEMORY} (docker run --shm-size 8g, or --ipc host), or {fewer}"
        )
    if ended and ended[1] == "Killed":
        return (
            "a data-loading process was killed (SIGKILL), which the system does when memory runs out "
            f"({limits()}); {fewer}, or give the job more memory"
        )
    if ended:
        how = f" by {ended[1]}" if ended[1] else ""
        return (
            f"a data-loading process was ended{how} ({limits()}); DATALOADER.NUM_WORKERS 0 loads in the main "
            "process and shows where"
        )
    if isinstance(error, OSError):
        return f"data-loading processes cannot be started: {error.strerror} ({limits()}); {fewer}"
    return None


def limits() -> str:
    """Return what batches on their way use up, and how much there is: shared memory and open files."""
    facts = []
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(_SHARED_MEMORY)
        facts.append(f"{_SHARED_MEMORY}: {usage.free / 2**20:.1f} of {usage.total / 2**20:.1f} MiB free")
    facts.append(f"ulimit -n: {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}")
    return ", ".join(facts)


class _Watch:
    """Whether processes do anything, by the time that the system has given them."""

    def __init__(self, process_ids: Sequence[int]):
        self._process_ids = process_ids
        self.reset()

    def reset(self) -> None:
        self._since, self._ticks = time.monotonic(), 0

    def idle_for(self) -> float:
        """Return seconds since when none has done anything, as far as this was asked; 0 where it is not known."""
        ticks = 0
        for process_id in self._process_ids:
            try:
                # The name, in brackets, may hold anything.
                fields = (
                    Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                )
            except OSError:
                return 0.0
            if fields[0] == "D":  # waits for a disk
                self._since = time.monotonic()
                return 0.0
            ticks += int(fields[11]) + int(fields[12])
        # They look up now and then themselves.
        if ticks - self._ticks > 0.1 * os.sysconf("SC_CLK_TCK"):
            self._since, self._ticks = time.monotonic(), ticks
        return time.monotonic() - self._since
