"""Lists of classes as other programs write them: names line by line, with colors where they have some."""

import re
from pathlib import Path
from typing import Any

from segzoo.errors import InputError
from segzoo.text_files import read_text

# labelmap.txt of CVAT and Datumaro, "name:r,g,b:parts:actions", with empty fields where there is none.
_LABEL_MAP = re.compile(r"(?P<name>.+?):(?:(?P<color>\d{1,3},\s*\d{1,3},\s*\d{1,3}))?(?::[^:]*){0,2}")
_WITH_COLOR = re.compile(r".+?:\d{1,3},\s*\d{1,3},\s*\d{1,3}(:.*)?")
# class_dict.csv of CamVid's copies and of many competitions.
_CSV_HEADER = re.compile(r"\s*name\s*,\s*r\s*,\s*g\s*,\s*b\s*", re.IGNORECASE)
# labelme's first line, which stands for 255 in its masks.
_IGNORED = "__ignore__"


def read_class_list(path: Path) -> list[dict[str, Any]]:
    """The classes of a text file, as a dataset's YAML has them: `name`, and `color` where there is one.

    Args:
        path: a name per line; CVAT's `labelmap.txt` (name:r,g,b:parts:actions); or a CSV of name,r,g,b.

    Raises:
        InputError: it cannot be read, is empty, or has a line of another form.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    if numbered and _CSV_HEADER.fullmatch(numbered[0][1]):
        classes = [_of_csv(line, number, path) for number, line in numbered[1:]]
    elif any(_WITH_COLOR.fullmatch(line) for _, line in numbered):
        classes = [_of_label_map(line, number, path) for number, line in numbered]
    else:
        classes = [{"name": line} for _, line in numbered if line != _IGNORED]
    if not classes:
        raise InputError(f"{path}: lists no classes; expected a name per line")
    return classes


def _of_csv(line: str, number: int, path: Path) -> dict[str, Any]:
    name, *color = (part.strip() for part in line.rsplit(",", 3))
    if len(color) != 3 or not all(map(str.isdigit, color)):
        raise InputError(f"{path}: line {number} is {line!r}, expected name,r,g,b")
    return {"name": name, "color": [int(part) for part in color]}


def _of_label_map(line: str, number: int, path: Path) -> dict[str, Any]:
    found = _LABEL_MAP.fullmatch(line)
    if found is None:
        raise InputError(f"{path}: line {number} is {line!r}, expected name:r,g,b:parts:actions")
    entry: dict[str, Any] = {"name": found["name"].strip()}
    if found["color"]:
        entry["color"] = [int(part) for part in found["color"].split(",")]
    return entry
