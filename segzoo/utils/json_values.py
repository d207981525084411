"""Values of a JSON that another program wrote: converted where only one reading is possible.

Programs write ids as 7, 7.0 or "7", flags as 1 or true, and null for what they do not know.
"""

import json
import re
import sys
from collections.abc import Hashable, Iterable
from math import isfinite
from typing import Any

from .errors import InputError

# Characters of a value in a message; digits of a number that is written as text.
_SHOWN, _DIGITS = 60, 20
_NUMBER = re.compile(rf"\s*([+-]?[0-9]{{1,{_DIGITS}}})(?:\.0*)?\s*")
# Beyond this, a float is not the only one that its whole number stands for.
_EXACT = 2**53
_LARGEST = sys.float_info.max


def shown(value: Any) -> str:
    """The value as the JSON has it, so that "1" and 1, null and "null" are told apart; long ones are cut."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def as_whole(value: Any) -> int | None:
    """The whole number that is meant by 7, 7.0 or "7"; None for anything else, true and false among them."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) <= _EXACT else None
    found = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else int(found[1])


def as_flag(value: Any) -> int | None:
    """0 or 1 for what means that: numbers, true and false, and null for 0; None for anything else."""
    if value is None or isinstance(value, bool):
        return int(bool(value))
    number = as_whole(value)
    return number if number in (0, 1) else None


def read_flag(value: Any, key: str, described: str) -> int:
    """0 or 1 for a flag of a JSON: 0, 1, false, true, or null for 0.

    Args:
        described: file and annotation, for the message.

    Raises:
        InputError: anything else.
    """
    flag = as_flag(value)
    if flag is None:
        raise InputError(
            f"{described} has {key} {shown(value)}; expected 0 or 1: write it again with one of them"
        )
    return flag


def is_positive(value: Any) -> bool:
    """Whether it is a finite number above 0; true and false are none."""
    # An int that no float can hold is not finite.
    return (type(value) is float or _is_number(value)) and 0 < value <= _LARGEST


def is_box(value: Any) -> bool:
    """Whether it is [x, y, width, height] in finite numbers, width and height above 0."""
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return False
    x, y, width, height = value
    # Nearly all are four floats, whose sum is finite: COCO has a million of them.
    if type(x) is type(y) is type(width) is type(height) is float and isfinite(x + y + width + height):
        return width > 0 and height > 0
    if not (_is_number(x) and _is_number(y) and is_positive(width) and is_positive(height)):
        return False
    return -_LARGEST <= x <= _LARGEST and -_LARGEST <= y <= _LARGEST


def _is_number(value: Any) -> bool:
    # By the type first: COCO has millions of them.
    kind = type(value)
    return kind is float or kind is int or (isinstance(value, int | float) and kind is not bool)


def is_id(value: Any) -> bool:
    """Whether it may be an id: a number or a text."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)


class Ids:
    """The ids that a JSON lists, found again when they are written in another way: 7, 7.0 and "7".

    The same way is looked for first, so that images 7 and "007" of one file stay two.

    Args:
        listed: whole numbers and texts.
    """

    def __init__(self, listed: Iterable[Hashable]) -> None:
        self._listed = {one: one for one in listed}
        self._alike: dict[int, Any] = {}
        for one in self._listed:
            number = as_whole(one)
            if number is not None:
                # Of two that are written in different ways neither is meant by a third.
                self._alike[number] = None if number in self._alike else one

    def find(self, value: Any) -> Any:
        """The listed id that is meant; None where there is none, or more than one."""
        if is_id(value) and value in self._listed:
            return self._listed[value]
        number = as_whole(value)
        return None if number is None else self._alike.get(number)
