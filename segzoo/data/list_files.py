"""Reading list files: text files with an image of a split per line, optionally followed by its label file.

A JSON of COCO that lists images, such as image_info_test-dev2017.json, is a list file as well.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from segzoo.utils.errors import InputError
from segzoo.utils.text_files import read_text

from .coco_json import read_image_list, read_images, report_wrong_format
from .dataset_layouts import Layout
from .file_names import files_below, log_found, match_names
from .templates import IMAGE_SUFFIXES, existing_files, fields_of, fill, folder_of

# The first line of a CSV of images and labels.
_HEADER = re.compile(
    r"(image|img|file|path|name|input)\w*\s*[,;\t]\s*(mask|label|annotation|seg|target|gt)\w*", re.IGNORECASE
)


class ListedImage(NamedTuple):
    """An image of a list, its {stem}, and its label files, listed or expected."""

    path: str
    stem: str
    labels: tuple[str, ...]


class _Line(NamedTuple):
    """The content of a line of a list.

    Attributes:
        name: the image: a stem, a file name, or a path.
        label: path of the label file, or "".
    """

    name: str
    label: str = ""


def split_list(layout: Layout, root: Path, fields: Mapping[str, str]) -> tuple[Path, slice]:
    """Return the list file and the lines to use, from `train_list.txt` or `train_list.txt[3000:4000]`."""
    assert layout.list_file is not None
    text = fill(layout.list_file, fields)
    ranged = re.fullmatch(r"(.+)\[(\d*):(\d*)\]", text)
    if ranged is None:
        return root / text, slice(None)
    return root / ranged[1], slice(*(int(number) if number else None for number in ranged.groups()[1:]))


def read_list(
    layout: Layout,
    root: Path,
    fields: Mapping[str, str],
    split: str,
    labels_of: Callable[[Mapping[str, str]], tuple[str, ...]],
) -> list[ListedImage]:
    """Return the images of a list, in its order; they need not exist.

    A name is the template's {stem}, with or without the suffix, or a path. A path is tried relative to the
    root (a leading / is ignored), then as it is, then relative to the folder of the images, then by its end
    in that folder. The same holds for label files.

    Args:
        labels_of: function from the fields of an image to its label files.
    """
    list_file, chosen = split_list(layout, root, fields)
    lines = [_Line(name) for name in _names_in_json(list_file)[chosen]]
    lines = lines or list(_read_lines(list_file, chosen))
    expected = [_expected(line, layout, root, fields) for line in lines]
    names = [_with_suffix(line.name, layout.images, fields) for line in lines]
    paths = _found(expected, names, root, folder_of(root, layout.images, fields), (split, "listed images"))
    labels: list[str] = [str(root / line.label.lstrip("/")) if line.label else "" for line in lines]
    if layout.labels is not None and any(labels):
        named = [index for index, label in enumerate(labels) if label]
        found = _found(
            [labels[index] for index in named],
            [lines[index].label for index in named],
            root,
            folder_of(root, layout.labels, fields),
            (split, "listed labels"),
        )
        for index, path in zip(named, found, strict=True):
            labels[index] = path
    images = []
    for line, direct, path, label in zip(lines, expected, paths, labels, strict=True):
        if label:
            images.append(ListedImage(path, Path(path).stem, (label,)))
            continue
        image_fields = {"stem": _without_suffix(line.name, layout.images)}
        if path != direct:
            image_fields = {"stem": Path(path).stem, **(fields_of(path, root, layout.images, fields) or {})}
        images.append(ListedImage(path, image_fields["stem"], labels_of(image_fields)))
    return images


def _names_in_json(list_file: Path) -> list[str]:
    """Return the names of the images that a JSON of COCO lists; none for another file."""
    if list_file.suffix.lower() != ".json":
        return []
    with report_wrong_format(list_file, "images"):
        records = read_images(read_image_list(list_file), str(list_file))
    return [record["file_name"] for record in records.values()]


def _read_lines(list_file: Path, chosen: slice) -> Iterator[_Line]:
    numbered = enumerate(map(str.strip, read_text(list_file).split("\n")), 1)
    filled = [(number, line) for number, line in numbered if line]
    if filled and _HEADER.fullmatch(filled[0][1]):
        filled = filled[1:]
    if not filled[chosen]:
        raise InputError(f"{list_file}: lists no images; write one per line, or remove the key list")
    for number, line in filled[chosen]:
        words = _words(line)
        paths = [word for word in words if _is_image_name(word)]
        if len(words) > 2 and len(paths) > 1:
            raise InputError(
                f"{list_file}: line {number} has {len(words)} words; expected a name or two paths; quote "
                "paths that contain spaces"
            )
        if len(paths) == 2:
            yield _Line(*words)
        else:
            # Names may have spaces.
            yield _Line(words[0] if len(words) == 1 else line)


def _words(line: str) -> list[str]:
    """Return the words of a line, quoted or separated by a comma or spaces."""
    if line[0] in "\"'" or line[-1] in "\"'":
        return [word.strip("\"'") for word in re.findall(r"\"[^\"]+\"|'[^']+'|[^\s,]+", line)] or [line]
    by_comma = [word.strip() for word in line.split(",")]
    return by_comma if len(by_comma) == 2 and all(map(_is_image_name, by_comma)) else line.split()


def _is_image_name(word: str) -> bool:
    return Path(word).suffix.lower() in IMAGE_SUFFIXES


def _expected(line: _Line, layout: Layout, root: Path, fields: Mapping[str, str]) -> str:
    if line.label:
        return str(root / line.name.lstrip("/"))
    path = str(root / fill(layout.images, {**fields, "stem": _without_suffix(line.name, layout.images)}))
    return _existing(path.removesuffix(".*")) if path.endswith(".*") else path


def _without_suffix(name: str, images: str) -> str:
    """Return the {stem} of a listed name, without the suffix that the template has anyway."""
    suffix = Path(name).suffix
    if images.endswith("{stem}.*"):
        return name.removesuffix(suffix) if suffix.lower() in IMAGE_SUFFIXES else name
    return name.removesuffix(suffix) if suffix and images.endswith(f"{{stem}}{suffix}") else name


def _existing(path: str) -> str:
    candidates = [path + suffix for suffix in IMAGE_SUFFIXES]
    return next((candidate for candidate in candidates if os.path.exists(candidate)), candidates[0])


def _with_suffix(name: str, images: str, fields: Mapping[str, str]) -> str:
    """Return the file name of a listed image; a stem gets the template's prefix and suffix."""
    last = fill(images, fields).rpartition("/")[2]
    if _is_image_name(name) or "{stem}" not in last:
        return name
    folder, slash, stem = name.replace("\\", "/").rpartition("/")
    return folder + slash + last.replace("{stem}", stem)


def _found(
    expected: list[str], names: list[str], root: Path, folder: Path, whose: tuple[str, str]
) -> list[str]:
    """Return the expected paths; a missing one is replaced by the file that its name matches, if any.

    Args:
        whose: the split and a description of the names, for the log.
    """
    there = existing_files(expected)
    missing = {name: path for name, path in zip(names, expected, strict=True) if path not in there}
    found: dict[str, str] = {}
    for name in missing:
        # Joining leaves an absolute path unchanged.
        for path in (root / name, root / name.lstrip("/"), folder / name.lstrip("/")):
            if path.is_file():
                found.setdefault(missing[name], str(path))
    lost = {name: path for name, path in missing.items() if path not in found}
    if lost:
        free = files_below(str(folder), (*there, *found.values()))
        matched = _matched(lost, list(free), str(folder))
        log_found(matched, str(folder), *whose)
        found |= {lost[name]: path for name, path in matched.items()}
    return [found.get(path, path) for path in expected]


def _matched(names: Mapping[str, str], files: list[str], folder: str) -> dict[str, str]:
    """Return {name: file}; the suffix `.*` stands for the suffix of any image format."""
    stems = {os.path.splitext(path)[0]: path for path in files if _is_image_name(path)}
    open_names = {name.removesuffix(".*"): name for name in names if name.endswith(".*")}
    found = match_names((name for name in names if not name.endswith(".*")), files, folder).files
    by_stem = match_names(open_names, stems, folder).files if open_names else {}
    return {**found, **{open_names[name]: stems[stem] for name, stem in by_stem.items()}}
