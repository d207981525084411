"""OUTPUT_DIR belongs to one training at a time and can be written: said before the first iteration.

The mark is a lock on a file, which the system takes back when the process ends, however it does.
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
    """That a folder is this training's: a lock, which the main process holds until the end of `claimed`."""

    def __init__(self, folder: Path, locks: contextlib.ExitStack):
        self._folder = folder
        self._locks = locks
        self._file = locks.enter_context(locked(folder))

    def renew(self) -> None:
        """Locks the folder again if it, or the file in it, was removed and perhaps made anew since.

        Raises:
            InputError: another training has claimed it meanwhile, or it cannot be written.
        """
        # Not by opening it: to close a file of one's own gives the lock on it back.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self._folder / LOCK_FILE), os.fstat(self._file)):
                return
        self._locks.close()
        self._file = self._locks.enter_context(locked(self._folder))


@contextlib.contextmanager
def claimed(folder: str | Path) -> Iterator[Claim | None]:
    """Inside, no other training can claim the folder. Every process of the training enters it.

    Where the file system knows no locks, nothing is claimed.

    Yields:
        In the main process, what is claimed.

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
    """Around a training: what the system does not let it write becomes an error of one line.

    Raises:
        InputError: a full disk, a folder that has become read-only, ...
    """
    try:
        yield
    except OSError as error:
        if isinstance(error.__context__, InputError):
            # Said already. This is the attempt to write the last records all the same.
            raise error.__context__ from None
        # The name of a file that has long been open is not known.
        file = os.fsdecode(error.filename or folder)
        if error.errno not in WRITE_REFUSALS or not is_below(file, folder):
            raise
        raise InputError(f"OUTPUT_DIR: {cannot_write(file, error)}") from None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Inside, this process alone has claimed the folder, which is made; yields the lock file."""
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
        # The file stays when this ends: who finds it then may have it open already.
        yield lock_file


def _lock(lock_file: int) -> bool:
    """Whether the file is now this process's, or cannot be anybody's."""
    try:
        # A POSIX lock: data loading processes, which may live a little longer, do not inherit it.
        fcntl.lockf(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems have no locks.
        return error.errno not in _LOCKED
    return True


def _wait_for(lock_file: int, folder: Path) -> None:
    """Until a training on another machine is known to be gone; one on this machine would be known already.

    Raises:
        InputError: it is not gone.
    """
    process, machine = _holder(lock_file)
    if machine not in ("", socket.gethostname()):
        logger.info("Waiting up to %.0f s: process %s on %s holds %s", _PATIENCE, process, machine, folder)
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            if _lock(lock_file):
                return
            time.sleep(min(1.0, _PATIENCE / 10))
    known = f"process {process} on {machine}" if machine else "its process is not known"
    raise InputError(
        f"OUTPUT_DIR {folder}: another training writes there ({known}); choose another OUTPUT_DIR or end "
        f"that training (delete {folder / LOCK_FILE} if its machine has failed)"
    )


def _holder(lock_file: int) -> tuple[str, str]:
    """The process and the machine of the training that has locked the file; "" where they are not known."""
    try:
        holder = json.loads(os.pread(lock_file, 1000, 0))
        return str(holder["process"]), str(holder["machine"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""
