"""Transfer of batches from data-loader workers to the main process, with one-line errors if it fails.

torch transfers a batch in a thread of the worker. An error there (no shared memory or file descriptors left)
is lost, and the main process waits forever. Here the worker's main thread puts the batch into shared memory,
and the main process polls the workers while it waits.
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
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils import signal_handling
from torch.utils.data._utils.pin_memory import pin_memory

from segzoo.utils.errors import InputError

from .sampling import Failure
from .workers import job_signals_blocked

# Seconds between two checks of the workers.
POLL_INTERVAL = 2
# Seconds of idleness after which workers count as hanging.
IDLE_LIMIT = 300.0

_SHARED_MEMORY = Path("/dev/shm")
_TIMED_OUT = "DataLoader timed out"
_WORKER_ENDED = re.compile(
    r"^DataLoader worker \(pid.*\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)"
)
_NO_FILES_AT_ALL = re.compile(r"Too many open files in system")
_NO_FILES = re.compile(r"Too many open files|received \d+ items of ancdata")
_NO_MEMORY = re.compile(r"shared memory|\bshm\b|No space left on device|Bus error")
# In a RuntimeError of torch, about a batch; as an OSError it is about a process that cannot be started.
_NO_MAPPING = re.compile(r"Cannot allocate memory")
_USED_UP = (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


@dataclass
class SharedBatch:
    """A pickled batch whose tensors are in shared memory."""

    content: bytes

    def pin_memory(self) -> Any:
        """Return the batch with its tensors in page-locked memory; torch calls this in a thread.

        Copies from there to a GPU do not wait for the work that is queued on it. What cannot be opened is
        returned as it is: the main thread opens it again, and explains the error.
        """
        try:
            return pin_memory(pickle.loads(self.content))
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError):
            return self


def hand_over(batch: list[Any]) -> Any:
    """Collate function: return a `SharedBatch` or [Failure] in a worker, the batch itself without workers."""
    worker = get_worker_info()
    if worker is None:
        return batch
    try:
        return SharedBatch(bytes(ForkingPickler.dumps(batch)))
    except (OSError, RuntimeError) as error:
        reason = describe_transfer_error(error, worker.num_workers)
        if reason is None:
            raise
        return [Failure(reason)]


def received_batches(loader: DataLoader, while_waiting: Callable[[float], None]) -> Iterator[list[Any]]:
    """Yield the batches of a loader whose collate function is `hand_over`.

    Args:
        while_waiting: called every few seconds of a longer wait, with the seconds so far; may raise.

    Raises:
        InputError: a resource is used up, or a worker has ended or hangs.
    """
    if not loader.num_workers:
        yield from loader
        return
    with _report_transfer_errors(loader.num_workers), job_signals_blocked():
        batches = iter(loader)
    try:
        yield from _poll_batches(batches, loader.num_workers, while_waiting)
    except GeneratorExit:
        raise
    except BaseException:
        _end(batches)
        raise


def _poll_batches(
    batches: Iterator[Any], workers: int, while_waiting: Callable[[float], None]
) -> Iterator[list[Any]]:
    processes = getattr(batches, "_workers", ())
    monitor = _IdleMonitor([process.pid for process in processes])
    since = time.monotonic()
    while True:
        try:
            with _report_transfer_errors(workers, processes):
                batch = next(batches)
                batch = _opened(batch) if isinstance(batch, SharedBatch) else batch
        except StopIteration:
            return
        except RuntimeError as error:
            if _TIMED_OUT not in str(error):
                raise
            while_waiting(time.monotonic() - since)
            if monitor.idle_for() > IDLE_LIMIT:
                raise InputError(
                    f"no batch for {IDLE_LIMIT / 60:.0f} minutes, during which the {workers} data-loader "
                    f"workers were idle ({limits()}); DATALOADER.NUM_WORKERS 0 loads in the main process and "
                    "shows what they wait for"
                ) from None
            continue
        yield batch
        monitor.reset()
        since = time.monotonic()


def _end(batches: Any) -> None:
    """Kill the workers: this process would wait for a hanging one when it exits."""
    with contextlib.suppress(AttributeError):
        # Otherwise torch reports that they have ended.
        signal_handling._remove_worker_pids(id(batches))
        batches._worker_pids_set = False
    for worker in getattr(batches, "_workers", ()):
        worker.kill()


def _opened(shared: SharedBatch) -> list[Any]:
    try:
        return pickle.loads(shared.content)
    except (ConnectionError, EOFError, FileNotFoundError):
        # The worker has ended; torch reports the reason in the main thread once the system has told it.
        time.sleep(1.0)
        raise RuntimeError("DataLoader worker (pid unknown) exited unexpectedly") from None


@contextlib.contextmanager
def report_ended_workers(workers: int) -> Iterator[None]:
    """Turn torch's error for a worker that ended, raised anywhere in the main thread, into one line.

    Raises:
        InputError: a worker ended.
    """
    try:
        yield
    except RuntimeError as error:
        if not _WORKER_ENDED.search(str(error)):
            raise
        raise InputError(describe_transfer_error(error, workers)) from None


@contextlib.contextmanager
def _report_transfer_errors(workers: int, processes: Sequence[BaseProcess] = ()) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = describe_transfer_error(_with_signal(error, processes), workers)
        if reason is None:
            raise
        raise InputError(reason) from None


def _with_signal(error: Exception, processes: Sequence[BaseProcess]) -> Exception:
    """Add the signal that ended a worker, if torch noticed the end before the signal."""
    ended = _WORKER_ENDED.search(str(error))
    if ended and not ended[1]:
        for process in processes:
            if (status := process.exitcode or 0) < 0:
                name = signal.strsignal(-status)
                return RuntimeError(f"DataLoader worker (pid {process.pid}) is killed by signal: {name}")
    return error


def describe_transfer_error(error: Exception, workers: int) -> str | None:
    """Return one line about a failed transfer from `workers` processes; None for any other error."""
    message = " ".join(str(error).split())
    used_up = getattr(error, "errno", None) in _USED_UP
    # Errors about a file have its name, and errors of a dataset in a worker a traceback: not handled here.
    if message.startswith("Caught ") or (isinstance(error, OSError) and (error.filename or not used_up)):
        return None
    ended = _WORKER_ENDED.search(message)
    fewer = f"lower DATALOADER.NUM_WORKERS (now {workers}; 0 needs none)"
    if _NO_FILES_AT_ALL.search(message):
        return (
            "a data-loader worker cannot hand over a batch: too many open files on the whole machine "
            f"(/proc/sys/fs/file-nr); end other programs, or {fewer}"
        )
    if _NO_FILES.search(message):
        return (
            f"a data-loader worker cannot hand over a batch: too many open files ({limits()}); "
            f"raise the limit (ulimit -n 65536), or {fewer}"
        )
    if _NO_MAPPING.search(message) and not isinstance(error, OSError):
        return (
            f"a data-loader worker cannot hand over a batch: no memory left ({limits()}); "
            f"{fewer}, or give the job more memory"
        )
    if _NO_MEMORY.search(message):
        return (
            f"a data-loader worker cannot hand over a batch: no shared memory left ({limits()}); "
            f"increase the size of {_SHARED_MEMORY} (docker run --shm-size 8g, or --ipc host), or {fewer}"
        )
    if ended and ended[1] == "Killed":
        return (
            "a data-loader worker was killed (SIGKILL), which the system does when memory runs out "
            f"({limits()}); {fewer}, or give the job more memory"
        )
    if ended:
        how = f"was ended by {ended[1]}" if ended[1] else "has ended"
        return (
            f"a data-loader worker {how} ({limits()}); DATALOADER.NUM_WORKERS 0 loads in the main "
            "process and shows where"
        )
    if isinstance(error, OSError):
        return f"data-loader workers cannot be started: {error.strerror} ({limits()}); {fewer}"
    return None


def limits() -> str:
    """Return the resources that transferring batches needs: free shared memory, limit of open files."""
    parts = []
    with contextlib.suppress(OSError):
        usage = shutil.disk_usage(_SHARED_MEMORY)
        parts.append(f"{_SHARED_MEMORY}: {usage.free / 2**20:.1f} of {usage.total / 2**20:.1f} MiB free")
    parts.append(f"ulimit -n: {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}")
    return ", ".join(parts)


class _IdleMonitor:
    """Measures how long processes have been idle, from the CPU time that the system reports."""

    def __init__(self, process_ids: Sequence[int]):
        self._process_ids = process_ids
        self.reset()

    def reset(self) -> None:
        self._since, self._ticks = time.monotonic(), 0

    def idle_for(self) -> float:
        """Return the seconds since any process was last seen active; 0 if unknown."""
        ticks = 0
        for process_id in self._process_ids:
            try:
                # The name, in parentheses, may contain any character.
                fields = (
                    Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                )
            except OSError:
                return 0.0
            if fields[0] == "D":  # waiting for a disk
                self._since = time.monotonic()
                return 0.0
            ticks += int(fields[11]) + int(fields[12])
        # Waiting workers use a little CPU time, too.
        if ticks - self._ticks > 0.1 * os.sysconf("SC_CLK_TCK"):
            self._since, self._ticks = time.monotonic(), ticks
        return time.monotonic() - self._since
