"""A lock on OUTPUT_DIR: only one training writes there at a time, checked before the first iteration.

It is a lock on a file, which the system releases when the process ends in any way.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from detectron2.utils import comm

from segzoo.utils.errors import InputError
from segzoo.utils.files import WRITE_REFUSALS, cannot_write
from segzoo.utils.paths import is_below

LOCK_FILE = ".lock"
_LOCKED = (errno.EACCES, errno.EAGAIN)
# Seconds until a file server gives up the locks of a machine that has failed: NFS takes 90.
_PATIENCE = 120.0

logger = logging.getLogger(__name__)


class Claim:
    """Lock on a folder for this training, held by the main process until the end of `claimed`."""

    def __init__(self, folder: Path, locks: contextlib.ExitStack):
        self._folder = folder
        self._locks = locks
        self._file = locks.enter_context(locked(folder))

    def renew(self) -> None:
        """Lock the folder again if it, or the lock file, was removed and perhaps created again.

        Raises:
            InputError: another training has claimed it in between, or it cannot be written.
        """
        # Not by opening the file: closing any descriptor of it releases the process's lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self._folder / LOCK_FILE), os.fstat(self._file)):
                return
        self._locks.close()
        self._file = self._locks.enter_context(locked(self._folder))


@contextlib.contextmanager
def claimed(folder: str | Path) -> Iterator[Claim | None]:
    """Keep other trainings from claiming the folder; every process of the training enters it.

    Where the file system has no locks, nothing is claimed.

    Yields:
        The claim in the main process, None in the others.

    Raises:
        InputError: another training has claimed it, or it cannot be written; in every process.
    """
    with contextlib.ExitStack() as locks:
        problem, claim = "", None
        if comm.is_main_process():
            try:
                claim = Claim(Path(folder), locks)
            except InputError as error:
                problem = str(error)
        problem = comm.all_gather(problem)[0]
        if problem:
            raise InputError(problem)
        yield claim


@contextlib.contextmanager
def writing_explained(folder: str | Path) -> Iterator[None]:
    """Turn errors in writing below `folder` into a one-line error.

    Raises:
        InputError: a full disk, a folder that has become read-only, ...
    """
    try:
        yield
    except OSError as error:
        if isinstance(error.__context__, InputError):
            # Already reported: this is the attempt to write the last records anyway.
            raise error.__context__ from None
        # An error of a file that is already open has no name.
        file = os.fsdecode(error.filename or folder)
        if error.errno not in WRITE_REFUSALS or not is_below(file, folder):
            raise
        raise InputError(f"OUTPUT_DIR: {cannot_write(file, error)}") from None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Create the folder and lock it for this process; yield the lock file's descriptor."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock_file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
            stack.callback(os.close, lock_file)
            if not _lock(lock_file):
                _wait_for(lock_file, folder)
            os.ftruncate(lock_file, 0)
            holder = {"process": os.getpid(), "machine": socket.gethostname()}
            os.pwrite(lock_file, json.dumps(holder).encode(), 0)
        except OSError as error:
            raise InputError(f"OUTPUT_DIR {cannot_write(folder, error)}") from None
        # The file is not removed: another process may have opened it already.
        yield lock_file


def _lock(lock_file: int) -> bool:
    """Tell whether this process has locked the file, or the file system has no locks."""
    try:
        # A POSIX lock: data-loader workers, which may outlive this process briefly, do not inherit it.
        fcntl.lockf(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems have no locks.
        return error.errno not in _LOCKED
    return True


def _wait_for(lock_file: int, folder: Path) -> None:
    """Wait for a lock that a failed machine may still hold; on this machine a lock means a live process.

    Raises:
        InputError: the other training still holds it.
    """
    process, machine = _holder(lock_file)
    if machine not in ("", socket.gethostname()):
        logger.info("Waiting up to %.0f s: process %s on %s holds %s", _PATIENCE, process, machine, folder)
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            if _lock(lock_file):
                return
            time.sleep(min(1.0, _PATIENCE / 10))
    known = f"process {process} on {machine}" if machine else "process unknown"
    raise InputError(
        f"OUTPUT_DIR {folder}: another training writes there ({known}); choose another OUTPUT_DIR or end "
        f"that training (delete {folder / LOCK_FILE} if its machine has failed)"
    )


def _holder(lock_file: int) -> tuple[str, str]:
    """Return the process and the machine that have locked the file; "" where they are unknown."""
    try:
        holder = json.loads(os.pread(lock_file, 1000, 0))
        return str(holder["process"]), str(holder["machine"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""
