"""Convert values of JSON files from other programs, if their meaning is unambiguous.

Programs write ids as 7, 7.0 or "7", flags as 1 or true, and null for unknown values.
"""

import json
import re
import sys
from collections.abc import Hashable, Iterable
from math import isfinite
from typing import Any

from .errors import InputError

# Maximum characters of a value in a message, and digits of a number that is written as a string.
_SHOWN, _DIGITS = 60, 20
_NUMBER = re.compile(rf"\s*([+-]?[0-9]{{1,{_DIGITS}}})(?:\.0*)?\s*")
# Beyond this, floats do not represent all integers.
_EXACT = 2**53
_LARGEST = sys.float_info.max


def shown(value: Any) -> str:
    """Return a value as JSON text, in which "1" and 1, null and "null" differ; long ones are truncated."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def as_integer(value: Any) -> int | None:
    """Return the integer that 7, 7.0 or "7" means; None for other values, including true and false."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= _EXACT else None
    found = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else int(found[1])


def as_flag(value: Any) -> int | None:
    """Return 0 or 1 for these numbers, true and false, and null (0); None for other values."""
    if value is None or isinstance(value, bool):
        return int(bool(value))
    number = as_integer(value)
    return number if number in (0, 1) else None


def read_flag(value: Any, key: str, described: str) -> int:
    """Return 0 or 1 for a flag in a JSON file: 0, 1, false, true, or null for 0.

    Args:
        value: the flag.
        key: its key, for the message.
        described: file and annotation, for the message.

    Raises:
        InputError: the value is not a flag.
    """
    flag = as_flag(value)
    if flag is None:
        raise InputError(
            f"{described} has {key} {shown(value)}; expected 0 or 1: write the file again with one of them"
        )
    return flag


def is_positive(value: Any) -> bool:
    """Return whether a value is a finite number above 0; true and false are not numbers."""
    # An int that a float cannot hold counts as infinite.
    return (type(value) is float or _is_number(value)) and 0 < value <= _LARGEST


def is_box(value: Any) -> bool:
    """Return whether a value is [x, y, width, height] in finite numbers, with width and height above 0."""
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return False
    x, y, width, height = value
    # Fast path: nearly all of COCO's million boxes are four floats with a finite sum.
    if type(x) is type(y) is type(width) is type(height) is float and isfinite(x + y + width + height):
        return width > 0 and height > 0
    if not (_is_number(x) and _is_number(y) and is_positive(width) and is_positive(height)):
        return False
    return -_LARGEST <= x <= _LARGEST and -_LARGEST <= y <= _LARGEST


def _is_number(value: Any) -> bool:
    # Exact types first, for speed: COCO has millions of numbers.
    exact = type(value)
    return exact is float or exact is int or (isinstance(value, int | float) and exact is not bool)


def is_id(value: Any) -> bool:
    """Return whether a value may be an id: a number or a string."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)


class Ids:
    """The ids listed in a JSON file, which are also found when written differently: 7, 7.0 and "7".

    The exact value is looked up first, so that images 7 and "007" of one file are distinct.

    Args:
        listed: integers and strings.
    """

    def __init__(self, listed: Iterable[Hashable]) -> None:
        self._listed = {one: one for one in listed}
        self._by_number: dict[int, Any] = {}
        for one in self._listed:
            number = as_integer(one)
            if number is not None:
                # Two ids with the same number are ambiguous for a third spelling.
                self._by_number[number] = None if number in self._by_number else one

    def find(self, value: Any) -> Any:
        """Return the listed id that a value means; None if there is none, or more than one."""
        if is_id(value) and value in self._listed:
            return self._listed[value]
        number = as_integer(value)
        return None if number is None else self._by_number.get(number)
