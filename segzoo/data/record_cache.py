"""Records of large annotation files, read once on a machine: a cache in the user's cache folder.

Reading COCO's 118,287 training images takes ten seconds and two gigabytes. The first process that needs them
writes them into a file; all others, ranks and later runs, map it into memory. The environment variable
SEGZOO_DATASET_CACHE names another folder, or is "off"; the folder may be deleted at any time on the machine
that uses it. A file is read only if it belongs to this user and nobody else may write to it. Nothing here
fails if the folder cannot be used: a process then reads for itself. Records of small files are kept in the
process alone.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import marshal
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.utils.logger import log_first_n

from segzoo import __version__
from segzoo.utils.files import atomic_path

from .stored_records import Record, StoredRecords, open_for_records, open_records, write_records

logger = logging.getLogger(__name__)

VARIABLE = "SEGZOO_DATASET_CACHE"
SUFFIX = ".records"
# Files that nobody has opened for so long are removed; and, from the longest unused one on, what exceeds this
# size, except files that were opened within a day: other machines may be using them.
_UNUSED_DAYS, _LARGEST_FOLDER, _RECENT_DAYS = 30.0, 8 << 30, 1.0
# Seconds between two tries to get the lock, and the longest wait for another process.
_POLL, _LONGEST_WAIT = 0.2, 1800.0
# Number of datasets that a process remembers.
_REMEMBERED = 8


class Built(NamedTuple):
    """Records that were read from their files.

    Attributes:
        records: dataset dicts.
        values: what else was read.
        lasting: whether both depend on the key alone, so that they may be kept.
    """

    records: Sequence[Record]
    values: Mapping[str, Any]
    lasting: bool = True


Build = Callable[[], Built]

# {file name: records}, the last used at the end.
_remembered: dict[str, StoredRecords] = {}


def cached_records(
    name: str, key: Mapping[str, Any], build: Build, *, on_disk: bool = True
) -> tuple[Sequence[Record], Mapping[str, Any]]:
    """Return the records and values of `build`, from this process, from the cache, or by calling it.

    Args:
        name: begins the name of the file.
        key: all that the result depends on, as values that JSON can hold.
        build: returns values of Python's plain types; others are not kept.
        on_disk: use the folder, and not this process's memory alone.

    Raises:
        InputError: raised by `build`.
    """
    key = {**key, "version": __version__, "code": _code(), "python": sys.version, "marshal": marshal.version}
    # Users of one folder have their own files: nobody reads what another one has written.
    key["user"] = os.geteuid()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    readable = re.sub(r"[^\w-]", "_", name)[:60]
    file_name = f"{readable}-{digest}{SUFFIX}"
    found: StoredRecords | Built | None = _remembered.pop(file_name, None)
    if found is None:
        folder = cache_folder() if on_disk else None
        found = _stored_here(build()) if folder is None else _built_once(folder / file_name, build)
    if isinstance(found, Built):
        return found.records, found.values
    _remembered[file_name] = found
    while len(_remembered) > _REMEMBERED:
        _remembered.pop(next(iter(_remembered)))
    return found, found.description


def cache_folder() -> Path | None:
    """Return SEGZOO_DATASET_CACHE, else one in the user's cache folder; None if it is off or not found."""
    named = os.environ.get(VARIABLE, "")
    if named.lower() in ("off", "0"):
        return None
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(named or Path(user, "segzoo", "datasets"))
    try:
        return folder.expanduser()
    except RuntimeError as error:
        # A container may run as a user without a home folder.
        _report(folder, error)
        return None


@cache
def _code() -> list[list[Any]]:
    """Return what identifies the code that makes records: a version under development has one number."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [[file.name, status.st_size, status.st_mtime_ns] for file in files for status in (file.stat(),)]


def _stored_here(built: Built) -> StoredRecords | Built:
    """Return the records in the memory of this process; as they are if they cannot be stored."""
    stream = io.BytesIO()
    try:
        if built.lasting:
            write_records(stream, built.records, built.values)
            return StoredRecords(stream.getvalue())
    except ValueError:
        pass  # a value that is not of Python's plain types
    return built


def _built_once(path: Path, build: Build) -> StoredRecords | Built:
    """Return the records of a file, which is written first if there is none."""
    found = _opened(path)
    if found is not None:
        return found
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock, waited = stack.enter_context(_locked(path.with_suffix(".lock"), path.name))
        except OSError as error:
            _report(path.parent, error)
            return _stored_here(build())
        # Another process may have written it meanwhile.
        found = _opened(path)
        if found is not None:
            return found
        if waited and os.fstat(lock).st_size:
            # The other process could not keep the records, so the rest reads at the same time.
            stack.close()
            return _stored_here(build())
        built = build()
        written = _written(path, built)
        with contextlib.suppress(OSError):
            os.ftruncate(lock, 0 if written is not None else 1)
        return _stored_here(built) if written is None else written


def _written(path: Path, built: Built) -> StoredRecords | None:
    """Write records and open the file; return None if they cannot be kept."""
    if not built.lasting:
        return None
    _make_room(path.parent)
    try:
        # A lost file is written again, so it need not survive a power failure.
        with atomic_path(path, durable=False) as temporary, open_for_records(temporary) as stream:
            write_records(stream, built.records, built.values)
        stored = open_records(path)
    except (OSError, ValueError) as error:
        _report(path.parent, error)
        return None
    logger.info("Stored %d records in %s (none with %s=off)", len(stored), path, VARIABLE)
    return stored


def _reason(error: Exception) -> object:
    return getattr(error, "strerror", None) or error


def _report(folder: Path, error: Exception) -> None:
    message = (
        f"the records of large datasets cannot be kept in {folder} ({_reason(error)}), so each process reads "
        f"them itself; set {VARIABLE} to a folder that can be written, or to off"
    )
    log_first_n(logging.WARNING, message, key="message", name=__name__)


def _opened(path: Path) -> StoredRecords | None:
    """Return the records of a file; None if it is missing or damaged."""
    try:
        records = open_records(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, TypeError) as error:
        logger.info("%s is written again: %s", path, _reason(error))
        return None
    # Its time tells when it was last used.
    with contextlib.suppress(OSError):
        os.utime(path)
    return records


@contextlib.contextmanager
def _locked(path: Path, what: str) -> Iterator[tuple[int, bool]]:
    """Hold a lock that ends with the process at the latest; do nothing on file systems without locks.

    Yields:
        The open lock file, and whether another process held the lock before.
    """
    with path.open("ab") as file:
        since, told, waited = time.monotonic(), False, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited, seconds = True, time.monotonic() - since
                if seconds > _LONGEST_WAIT:
                    break
                if seconds > 5 and not told:
                    told = True
                    logger.info("Waiting for another process that reads the annotations of %s", what)
                time.sleep(_POLL)
            except OSError:
                break
        yield file.fileno(), waited


def _make_room(folder: Path) -> None:
    """Remove what killed processes left, files unused for a month, and what makes the folder too large."""
    now = time.time()
    with contextlib.suppress(OSError):
        files = [(file.stat(), file) for file in folder.iterdir() if file.is_file()]
        files.sort(key=lambda item: item[0].st_mtime)
        size = sum(status.st_size for status, _ in files)
        for status, file in files:
            days = (now - status.st_mtime) / 86400
            too_large = size > _LARGEST_FOLDER and file.suffix == SUFFIX
            limit = _RECENT_DAYS if file.name.startswith(".") or too_large else _UNUSED_DAYS
            if days > limit:
                file.unlink(missing_ok=True)
                size -= status.st_size
