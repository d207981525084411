"""Finding files by the end of paths that were written on another machine.

Annotation tools write the paths of the machine that they ran on: C:\\data\\a.jpg, /home/me/data/a.jpg,
..\\upload\\4\\a.jpg, http://host/a%20b.jpg, /data/local-files/?d=images/a.jpg. Names and files have the last
parts in common, up to letter case, Unicode form and percent encoding.
"""

import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import NamedTuple
from urllib.parse import unquote, unquote_plus

from detectron2.utils.logger import log_first_n

from segzoo.utils.errors import InputError
from segzoo.utils.text import some

from .templates import existing_files

# Maximum number of files below a folder that are compared: with more, it is probably a whole disk.
_MOST_FILES = 2_000_000


class Matched(NamedTuple):
    """The files that names match.

    Attributes:
        files: {name: its file}.
        ambiguous: {name: the files that it matches, or [the file that another name matches as well]}.
    """

    files: dict[str, str]
    ambiguous: dict[str, list[str]]


class _File(NamedTuple):
    path: str
    parts: tuple[str, ...]
    own_parts: int  # number of parts below the folder, which must all match


def match_names(names: Iterable[str], files: Iterable[str], folder: str) -> Matched:
    """Pair names with files by the longest common end of their paths, if it is unambiguous.

    A name matches a file if the name is the end of the file's path, or the file's path below the folder is
    the end of the name. If a name matches several files, or several names match a file, the pair with the
    longest common end is taken.

    Args:
        names: distinct names.
        files: files below the folder.
    """
    by_last = defaultdict(list)
    above = len(_parts(folder))
    for path in files:
        parts = _parts(path)
        by_last[parts[-1]].append(_File(path, parts, len(parts) - above))
    best: dict[str, tuple[tuple[int, bool], list[str]]] = {}
    matched = Matched({}, {})
    for name in names:
        rank, candidates = _candidates(name, by_last)
        if len(candidates) > 1:
            matched.ambiguous[name] = candidates
        elif candidates:
            other_rank, fitting = best.setdefault(candidates[0], (rank, []))
            if rank > other_rank:
                fitting.clear()
            if rank >= other_rank:
                fitting.append(name)
                best[candidates[0]] = rank, fitting
    for path, (_, fitting) in best.items():
        if len(fitting) == 1:
            matched.files[fitting[0]] = path
        else:
            matched.ambiguous.update({name: [path] for name in fitting})
    return matched


def _candidates(name: str, by_last: dict[str, list[_File]]) -> tuple[tuple[int, bool], list[str]]:
    """Return (length of the common end, whether the spelling is equal) and the files with the best match."""
    for spelling in _spellings(name):
        parts = _parts(spelling)
        ranked = defaultdict(list)
        for file in by_last.get(parts[-1], ()) if parts else ():
            common = _common_end(parts, file.parts)
            if common >= min(file.own_parts, len(parts)):
                same = os.path.basename(file.path) == re.split(r"[\\/]", spelling)[-1]
                ranked[common, same].append(file.path)
        if ranked:
            return max(ranked), ranked[max(ranked)]
    return (0, False), []


def _spellings(name: str) -> Iterator[str]:
    """Yield the possible readings of a name, likeliest first: as is, percent-decoded, as a URL."""
    address, _, query = name.partition("?")
    for text in (name, address, query.rpartition("=")[2]):
        yield from dict.fromkeys((text, unquote(text), unquote_plus(text)))


def _parts(path: str) -> tuple[str, ...]:
    """Return the parts of a path in a normal form: composed Unicode, case-folded."""
    plain = unicodedata.normalize("NFC", path).casefold()
    return tuple(part for part in re.split(r"[\\/]", plain) if part not in ("", ".", ".."))


def _common_end(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def files_below(folder: str, taken: Iterable[str]) -> Iterator[str]:
    """Return the files below a folder, without hidden ones and `taken` ones, which may be written x/../y."""
    known = {os.path.normpath(path) for path in taken}
    return (path for path in islice(_walk(folder), _MOST_FILES) if os.path.normpath(path) not in known)


def _walk(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(names) if not name.startswith("."))


def find_named_files(names: Sequence[str], folder: str, split: str, what: str, remedy: str) -> list[str]:
    """Return the files that a JSON names, in the folder or, if missing there, matched by their paths' ends.

    The number of files that were matched is logged once. The folder is searched only if files are missing.

    Args:
        names: distinct names.
        what: description of the files, e.g. "images".
        remedy: for names that are not found.

    Returns:
        A path for each name.

    Raises:
        InputError: a file is not found.
    """
    paths = [os.path.join(folder, name) for name in names]
    there = existing_files(paths)
    missing = [index for index, path in enumerate(paths) if path not in there]
    if not missing:
        return paths
    matched = match_names((names[index] for index in missing), files_below(folder, there), folder)
    log_found(matched.files, folder, split, what)
    lost = [index for index in missing if names[index] not in matched.files]
    if lost:
        first = names[lost[0]]
        problem = f"{split}: {len(lost)} of {len(names)} {what} do not exist: {paths[lost[0]]}"
        if first in matched.ambiguous:
            fitting = [os.path.relpath(path, folder) for path in matched.ambiguous[first]]
            raise InputError(
                f"{problem}; the end of the path {first!r} matches {some(fitting, 3)} in {folder}, but not "
                "uniquely: write the names as they are in that folder"
            )
        raise InputError(f"{problem}; no file in {folder} has a matching end of its path; {remedy}")
    return [matched.files.get(name, path) for name, path in zip(names, paths, strict=True)]


def log_found(files: dict[str, str], folder: str, split: str, what: str) -> None:
    """Log once that names were found by the ends of their paths."""
    if files:
        name, path = next(iter(files.items()))
        message = (
            f"{split}: {len(files)} {what} were found in {folder} by the ends of their paths, first {name!r} "
            f"as {path}"
        )
        log_first_n(logging.WARNING, message, key="message", name=__name__)
