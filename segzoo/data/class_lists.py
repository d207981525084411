"""Reading class lists of other programs: a name per line, possibly with a color or a number."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segzoo.utils.errors import InputError
from segzoo.utils.text_files import read_text

# labelmap.txt of CVAT and Datumaro, "name:r,g,b:parts:actions"; fields may be empty.
_LABEL_MAP = re.compile(r"(?P<name>.+?):(?:(?P<color>\d{1,3},\s*\d{1,3},\s*\d{1,3}))?(?::[^:]*){0,2}")
_WITH_COLOR = re.compile(r".+?:\d{1,3},\s*\d{1,3},\s*\d{1,3}(:.*)?")
# class_dict.csv, as in copies of CamVid and many competitions.
_CSV_HEADER = re.compile(r"\s*name\s*,\s*r\s*,\s*g\s*,\s*b\s*", re.IGNORECASE)
# _classes.csv of Roboflow, and other tables of numbers and names; "0 road" is recognized without a header.
_NUMBERED_HEADER = re.compile(
    r"(pixel[ _]?value|value|id|index|label)\s*[,;\t]\s*(class|name|label|category)([ _]?name)?",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?P<number>\d{1,5})\s*[,;:\t ]\s*(?P<name>.*\S)")
# labelme's first line, which stands for 255 in its masks.
_IGNORED = "__ignore__"


def read_class_list(path: Path) -> list[dict[str, Any]]:
    """Return the classes of a text file as in a dataset's YAML: `name` and, if given, `color` or `id`.

    Args:
        path: a name per line; CVAT's `labelmap.txt` (name:r,g,b:parts:actions); a CSV of name,r,g,b; or
            numbers and names, as Roboflow's `_classes.csv`.

    Raises:
        InputError: the file cannot be read, is empty, or has a line of another form.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    if numbered and _CSV_HEADER.fullmatch(numbered[0][1]):
        classes = [_from_csv(line, number, path) for number, line in numbered[1:]]
    elif numbered and _NUMBERED_HEADER.fullmatch(numbered[0][1]):
        classes = _from_numbers(numbered[1:], path)
    elif len(numbered) > 1 and all(_NUMBERED.fullmatch(line) for _, line in numbered):
        classes = _from_numbers(numbered, path)
    elif any(_WITH_COLOR.fullmatch(line) for _, line in numbered):
        classes = [_from_label_map(line, number, path) for number, line in numbered]
    else:
        classes = [{"name": line} for _, line in numbered if line != _IGNORED]
    if not classes:
        raise InputError(f"{path}: lists no classes; expected a name per line")
    return classes


def _from_csv(line: str, number: int, path: Path) -> dict[str, Any]:
    name, *color = (part.strip() for part in line.rsplit(",", 3))
    if len(color) != 3 or not all(map(str.isdigit, color)):
        raise InputError(f"{path}: line {number} is {line!r}, expected name,r,g,b")
    return {"name": name, "color": [int(part) for part in color]}


def _from_numbers(numbered: Sequence[tuple[int, str]], path: Path) -> list[dict[str, Any]]:
    """Return the classes in the order of their numbers, which become ids if they do not count from 0."""
    names: dict[int, str] = {}
    for number, line in numbered:
        found = _NUMBERED.fullmatch(line)
        if found is None:
            raise InputError(
                f"{path}: line {number} is {line!r}, expected the number and the name of a class"
            )
        if names.setdefault(int(found["number"]), found["name"]) != found["name"]:
            raise InputError(
                f"{path}: line {number} gives {found['number']} to a second class; numbers must be unique"
            )
    if list(names) == list(range(len(names))):
        return [{"name": name} for name in names.values()]
    return [{"name": name, "id": value} for value, name in sorted(names.items())]


def _from_label_map(line: str, number: int, path: Path) -> dict[str, Any]:
    found = _LABEL_MAP.fullmatch(line)
    if found is None:
        raise InputError(f"{path}: line {number} is {line!r}, expected name:r,g,b:parts:actions")
    entry: dict[str, Any] = {"name": found["name"].strip()}
    if found["color"]:
        entry["color"] = [int(part) for part in found["color"].split(",")]
    return entry
