"""Finding files by names that were written on another machine: by the end of their paths.

Annotation tools write the paths of the machine that they ran on: C:\\data\\a.jpg, /home/me/data/a.jpg,
..\\upload\\4\\a.jpg, http://host/a%20b.jpg, /data/local-files/?d=images/a.jpg. What names and files have in
common is the last parts, in whatever letter case, Unicode form or percent encoding.
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

# Files below a folder that are looked at: more are no folder of images, but a disk.
_MOST_FILES = 2_000_000


class Matched(NamedTuple):
    """Which names are of which files.

    Attributes:
        files: {name: its file}.
        ambiguous: {name: the files that it may be, or [the file that another name fits as well]}.
    """

    files: dict[str, str]
    ambiguous: dict[str, list[str]]


class _File(NamedTuple):
    path: str
    parts: tuple[str, ...]
    own_parts: int  # below the folder: with fewer of them, it is another file


def match_names(names: Iterable[str], files: Iterable[str], folder: str) -> Matched:
    """Pair names with files by the longest common end of their paths, where it leaves no choice.

    A name fits a file if one of them, taken from the folder on, is the end of the other. Of several files
    that fit a name, and of several names that fit a file, the one with the longest common end is taken.

    Args:
        names: distinct.
        files: below the folder.
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
    """Return the files that fit a name best, and how well: length of the common end, same letters and all."""
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
    """Yield what a name may be, the likeliest first: as it is, without percent encoding, as an address."""
    address, _, query = name.partition("?")
    for text in (name, address, query.rpartition("=")[2]):
        yield from dict.fromkeys((text, unquote(text), unquote_plus(text)))


def _parts(path: str) -> tuple[str, ...]:
    """Return the parts of a path, so that equal ones are equal: composed Unicode, no letter case."""
    plain = unicodedata.normalize("NFC", path).casefold()
    return tuple(part for part in re.split(r"[\\/]", plain) if part not in ("", ".", ".."))


def _common_end(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def files_below(folder: str, taken: Iterable[str]) -> Iterator[str]:
    """Return the files of a folder and of its folders, without hidden ones and those that are `taken`.

    A folder may be written as `x/../y`.
    """
    known = {os.path.normpath(path) for path in taken}
    return (path for path in islice(_walk(folder), _MOST_FILES) if os.path.normpath(path) not in known)


def _walk(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(names) if not name.startswith("."))


def find_named_files(names: Sequence[str], folder: str, split: str, what: str, remedy: str) -> list[str]:
    """Return the files that a JSON names: below the folder or, where they are not there, by the end of the path.

    How many were found in the second way is logged once. Folders are searched only where names are missing.

    Args:
        names: distinct.
        what: they are, as "images".
        remedy: for names that are not found.

    Returns:
        A path for each name.

    Raises:
        InputError: for the first that is not found.
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
                f"{problem}; by the end of its path {first!r} fits {some(fitting, 3)} in {folder}, and so do "
                "others: write the names as they are in that folder"
            )
        raise InputError(f"{problem}; no file in {folder} has the end of that path; {remedy}")
    return [matched.files.get(name, path) for name, path in zip(names, paths, strict=True)]


def log_found(files: dict[str, str], folder: str, split: str, what: str) -> None:
    """Say once that names were found by the ends of their paths."""
    if files:
        name, path = next(iter(files.items()))
        message = (
            f"{split}: {len(files)} {what} were found in {folder} by the ends of their paths, first {name!r} "
            f"as {path}"
        )
        log_first_n(logging.WARNING, message, key="message", name=__name__)
