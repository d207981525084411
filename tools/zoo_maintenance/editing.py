"""Write counts and measured metrics into the tables of the zoo.

A table is edited line by line: its comments, its order and all other values stay unchanged.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segzoo.model_zoo.records import Measured
from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text


def write_reproduced(file: Path, name: str, measured: Measured) -> bool:
    """Set `reproduced` of a table row in place, atomically.

    The file is read again first, so that concurrent edits are kept.

    Returns:
        Whether the file changed.
    Raises:
        InputError: the row does not exist, or is not written with one line per key.
    """
    text = file.read_text(encoding="utf-8")
    edited = _edited(text, name, measured, file)
    if edited == text:
        return False
    expected = yaml.safe_load(text)
    _row_of(expected, name)["reproduced"] = yaml.safe_load(_one_line(measured))
    if yaml.safe_load(edited) != expected:
        raise InputError(f"{file}: {name}: reproduced cannot be set by editing one line; write it by hand")
    write_text(file, edited)
    return True


@dataclass
class _Block:
    """The lines of a row; `start` is the line of its name."""

    start: int
    end: int
    indent: int


def _edited(text: str, name: str, measured: Measured, file: Path) -> str:
    lines = text.splitlines(keepends=True)
    block = _find_row(lines, name)
    if block is None:
        raise InputError(f"{file}: found no line {name!r} to write under; a row has one line for each key")
    pad = " " * block.indent
    line = f"{pad}reproduced: {_one_line(measured)}"
    keys = {}
    for index in range(block.start + 1, block.end):
        if match := re.match(rf"{pad}(\w[^:]*):", lines[index]):
            keys[match.group(1)] = index
    if "reproduced" in keys:
        index = keys["reproduced"]
        end = next((i for i in range(index + 1, block.end) if i in keys.values()), index + 1)
        comment = re.search(r"\s+#.*$", lines[index])
        lines[index:end] = [line + (comment.group().rstrip() if comment else "") + "\n"]
    else:
        after = keys.get("official_code", keys.get("schedule", block.start))
        if not lines[after].endswith("\n"):
            lines[after] += "\n"
        lines.insert(after + 1, line + "\n")
    return "".join(lines)


def _find_row(lines: list[str], name: str) -> _Block | None:
    pattern = re.compile(rf"(\s+)(['\"]?){re.escape(name)}\2:\s*(#.*)?$")
    start = next((index for index, line in enumerate(lines) if pattern.match(line)), None)
    if start is None:
        return None
    outer = _indent(lines[start])
    end = start + 1
    while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) > outer):
        end += 1
    while not lines[end - 1].strip():
        end -= 1
    return _Block(start, end, _indent(lines[start + 1]) if end > start + 1 else outer + 2)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _one_line(measured: Measured) -> str:
    height, width = measured.size
    gflops = f"{measured.gflops:.1f}" if measured.gflops >= 1 else f"{measured.gflops:.3f}"
    text = f"params: {measured.params:.2f}, gflops: {gflops}, size: [{height}, {width}]"
    if measured.metrics:
        text += ", metrics: {" + ", ".join(f"{key}: {value}" for key, value in measured.metrics.items()) + "}"
    return "{" + text + "}"


def _row_of(table: dict[str, Any], name: str) -> dict[str, Any]:
    return next(section["models"][name] for section in table["sections"] if name in section["models"])
