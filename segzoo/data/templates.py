"""Path templates: filling in their fields, and finding the files that match.

`{split}` and other fields set by the split are filled in; any other field is open and matches a part of a
file or folder name. A final `.*` matches the suffix of any image format. Any other `*`, which only `labels`
may have, matches a text without `_`. A template that begins with / is not relative to a root.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"),
    *(".gif", ".jfif", ".jp2", ".avif", ".pgm", ".ppm"),
    *(".heic", ".heif"),  # not supported by Pillow, but found, so that reading them raises an error
)


def fill(template: str, fields: Mapping[str, str]) -> str:
    """Return the template with the known fields filled in."""
    return re.sub(r"{(\w+)}", lambda field: fields.get(field[1], field[0]), template)


def match(
    root: Path, template: str, fields: Mapping[str, str], patterns: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield all files below `root` that match the template, sorted, with the texts of their open fields.

    Args:
        patterns: {open field: regular expression of its text}, by default any text.
    """
    path = fill(template, fields)
    start = Path("/") if path.startswith("/") else root
    yield from _match_parts(start, path.lstrip("/").split("/"), {}, patterns)


def _match_parts(
    folder: Path, parts: list[str], found: dict[str, str], patterns: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, str]]]:
    part, rest = parts[0], parts[1:]
    if "{" not in part and "*" not in part:
        path = folder / part
        if rest:
            yield from _match_parts(path, rest, found, patterns)
        elif path.is_file():
            yield str(path), found
        return
    pattern = re.compile(_part_pattern(part, found, patterns))
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        fitting = pattern.fullmatch(entry.name)
        if fitting is None or entry.name.startswith("."):
            continue
        merged = {**found, **fitting.groupdict()}
        if rest and _is_dir(entry):
            yield from _match_parts(Path(entry.path), rest, merged, patterns)
        elif not rest and _is_file_or_lost(entry):
            yield entry.path, merged


def _is_dir(entry: os.DirEntry) -> bool:
    """Return whether an entry is a folder or a link to one; False for a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file_or_lost(entry: os.DirEntry) -> bool:
    """Return whether an entry is a file, a link to one, or a broken link, which fails when it is read."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True


def fields_of(path: str, root: Path, template: str, fields: Mapping[str, str]) -> dict[str, str] | None:
    """Return the texts of the open fields in the path of a file; None if it does not match the template."""
    parts = (root / fill(template, fields)).parts
    names = Path(path).parts
    found: dict[str, str] = {}
    for part, name in zip(parts, names, strict=False):
        fitting = re.fullmatch(_part_pattern(part, found, {}), name)
        if fitting is None:
            return None
        found |= fitting.groupdict()
    return found if len(parts) == len(names) else None


def folder_of(root: Path, template: str, fields: Mapping[str, str]) -> Path:
    """Return the folder that contains all files of a template."""
    return root / without_open_fields(fill(template, fields))


def without_open_fields(path: str) -> str:
    """Return the path up to the first folder or file name with an open field."""
    return path.split("{")[0].rpartition("/")[0] if "{" in path else path


def _part_pattern(part: str, found: Mapping[str, str], patterns: Mapping[str, str]) -> str:
    stem, any_suffix = (part[:-2], True) if part.endswith(".*") else (part, False)
    pattern = ""
    for text in re.split(r"({\w+}|\*)", stem):
        if text == "*":
            pattern += "[^_]+"
        elif not text.startswith("{"):
            pattern += re.escape(text)
        elif text[1:-1] in found:
            pattern += re.escape(found[text[1:-1]])
        else:
            pattern += f"(?P<{text[1:-1]}>{patterns.get(text[1:-1], '.+')})"
    suffixes = "|".join(re.escape(suffix) for suffix in IMAGE_SUFFIXES)
    return f"{pattern}(?i:{suffixes})" if any_suffix else pattern


def existing_files(paths: Iterable[str]) -> set[str]:
    """Return the paths that exist; lists each folder once, since network disks are slow per file."""
    wanted = set(paths)
    there: set[str] = set()
    for folder in {os.path.dirname(path) for path in wanted}:
        try:
            there.update(os.path.join(folder, name) for name in os.listdir(folder or "."))
        except OSError:
            continue
    return wanted & there
