"""Files that are written whole: a crash at any moment leaves the old file or the new one, never a part."""

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
# What a user can do where the system refuses a file or folder.
REMEDIES = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: f"{_MAKE_ROOM}, or ask for a larger quota",
    errno.EFBIG: "raise the limit for the size of a file (ulimit -f)",
    errno.EROFS: _GET_PERMISSION,
    errno.EACCES: _GET_PERMISSION,
    errno.EPERM: _GET_PERMISSION,
    errno.ENOTDIR: "a folder is needed in that place",
    errno.EISDIR: "a file is needed in that place",
    errno.EEXIST: "choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead to each other; remove them",
}
# A disk that takes no more, where any other OSError may be a programming error.
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
def written_whole(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which becomes `path` if the block succeeds and is removed if not.

    The folder is made. The temporary file has the same extension.

    Args:
        path: the file to write or replace.
        durable: flush file and folder to disk, so that a power cut loses nothing either; costs milliseconds.

    Raises:
        OSError: disk full, no permission, ...; `path` is as it was.
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
        # The rename itself, too; not every file system can flush a folder.
        with contextlib.suppress(OSError):
            _flush_to_disk(path.parent, os.O_RDONLY)


def write_atomically(path: str | Path, write: Callable[[IO[bytes]], object], *, durable: bool = True) -> None:
    """Replace the file `path` by what `write` writes into the stream it is given; see `written_whole`."""
    with written_whole(path, durable=durable) as temporary, temporary.open("wb") as stream:
        write(stream)


def write_text(path: str | Path, text: str, *, durable: bool = True) -> None:
    """Replace the file `path` by one that holds `text` in UTF-8; see `written_whole`."""
    write_atomically(path, lambda stream: stream.write(text.encode()), durable=durable)


def remove_stale(folder: Path) -> None:
    """Delete what killed processes left half-written in `folder`."""
    for temporary in folder.glob(f".*{_TEMPORARY}*"):
        temporary.unlink(missing_ok=True)


def cannot_write(path: str | Path, error: OSError, needed: int = 0) -> InputError:
    """Return the error that explains in one line why a file or folder could not be written.

    Args:
        path: of the file or folder.
        error: what the system said.
        needed: bytes; 0 if unknown.
    """
    facts = [f"about {_mebibytes(needed)} needed"] if needed else []
    with contextlib.suppress(OSError):
        folder = Path(path)
        free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
        facts.append(f"{_mebibytes(free)} free")
    known = f" ({', '.join(facts)})" if facts else ""
    remedy = REMEDIES.get(error.errno or 0, "look at the disk, or choose another folder")
    return InputError(f"{path} cannot be written: {error.strerror or error}{known}; {remedy}")


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _flush_to_disk(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_aside(path: Path, whose: str) -> None:
    """Rename a file to `<stem>_<n><suffix>`, with the first n that is free, and says so in the log.

    Args:
        whose: "an earlier run", or who else has written it.
    """
    number = 1
    while (aside := path.with_name(f"{path.stem}_{number}{path.suffix}")).exists():
        number += 1
    path.rename(aside)
    logger.info("%s of %s is now %s", path, whose, aside.name)
