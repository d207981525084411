"""Write files atomically: a crash leaves the old file or the new one, never a part."""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from .errors import InputError

logger = logging.getLogger(__name__)

_TEMPORARY = ".writing"
_MAKE_ROOM = "free some space, or choose another folder"
_GET_PERMISSION = "make it writable, or choose another one"
# Remedies for a file or folder that the system refuses, by errno.
REMEDIES = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: f"{_MAKE_ROOM}, or ask for a larger quota",
    errno.EFBIG: "raise the limit for the size of a file (ulimit -f)",
    errno.EROFS: _GET_PERMISSION,
    errno.EACCES: _GET_PERMISSION,
    errno.EPERM: _GET_PERMISSION,
    errno.ENOTDIR: "part of its path is a file; choose another one",
    errno.EISDIR: "it is a folder; choose another name",
    errno.EEXIST: "choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead to each other; remove them",
}
# Refused by the disk or file system; any other OSError may be a programming error.
WRITE_REFUSALS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
}


@contextlib.contextmanager
def atomic_path(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` if the block succeeds, else is removed.

    The folder is created. The temporary file has the same extension.

    Args:
        path: the file to write or replace.
        durable: flush file and folder to disk, against a power failure; costs milliseconds.

    Raises:
        OSError: disk full, no permission, ...; `path` is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{_TEMPORARY}{path.suffix}")
    try:
        yield temporary
        if durable:
            _flush_to_disk(temporary, os.O_RDWR)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable:
        # Flush the rename too; not every file system can flush a folder.
        with contextlib.suppress(OSError):
            _flush_to_disk(path.parent, os.O_RDONLY)


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], object], *, durable: bool = True) -> None:
    """Replace the file `path` by what `write(stream)` writes; see `atomic_path`."""
    with atomic_path(path, durable=durable) as temporary, temporary.open("wb") as stream:
        write(stream)


def write_text(path: str | Path, text: str, *, durable: bool = True) -> None:
    """Replace the content of `path` by `text` in UTF-8; see `atomic_path`."""
    write_atomically(path, lambda stream: stream.write(text.encode()), durable=durable)


def remove_stale(folder: Path) -> None:
    """Delete the temporary files that killed processes left in `folder`."""
    for temporary in folder.glob(f".*{_TEMPORARY}*"):
        temporary.unlink(missing_ok=True)


def cannot_write(path: str | Path, error: OSError, needed: int = 0) -> InputError:
    """Return the error that explains in one line why a file or folder could not be written.

    Args:
        path: the file or folder.
        error: the system's error.
        needed: bytes; 0 if unknown.
    """
    details = [f"about {_mebibytes(needed)} needed"] if needed else []
    with contextlib.suppress(OSError):
        folder = Path(path)
        free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
        details.append(f"{_mebibytes(free)} free")
    known = f" ({', '.join(details)})" if details else ""
    remedy = REMEDIES.get(error.errno or 0, "check the disk, or choose another folder")
    return InputError(f"{path} cannot be written: {error.strerror or error}{known}; {remedy}")


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _flush_to_disk(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_aside(path: Path, source: str) -> None:
    """Rename a file to `<stem>_<n><suffix>`, with the first free n, and log it.

    Args:
        path: the file.
        source: what wrote it, such as "an earlier run".
    """
    number = 1
    while (new_path := path.with_name(f"{path.stem}_{number}{path.suffix}")).exists():
        number += 1
    path.rename(new_path)
    logger.info("%s of %s is now %s", path, source, new_path.name)
