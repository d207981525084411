"""Check that a value has the type of its key's default, as yacs does."""

import re
from typing import Any

from segzoo.utils.errors import InputError

from .keys import flatten, nest

_WRONG_TYPE = re.compile(
    r"Type mismatch \(<class '(\w+)'> vs. <class '([\w.]+)'>\) "
    r"with values \((.*) vs. (.*)\) for config key: ([\w.]+)"
)
_TYPE_NAMES = {
    "int": "an integer",
    "float": "a number",
    "bool": "True or False",
    "str": "a string",
    "tuple": "a list",
    "list": "a list",
    "CfgNode": "a section with keys",
}


def type_message(error: Exception) -> str:
    """Return the message for a value whose type differs from the default's, from yacs's error."""
    text = " ".join(str(error).split())
    match = _WRONG_TYPE.fullmatch(text)
    if match is None:
        return text
    default_type, found, default, value, key = match.groups()
    expected = _TYPE_NAMES.get(default_type, default_type)
    return f"{key} is {value} ({found}); expected {expected}, such as {default or repr('')}"


def match_float_default(default: Any, value: Any) -> Any:
    """Return a number as float if the default is one: yacs would refuse `1` as a learning rate."""
    if not isinstance(default, float):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def no_value_message(key: str, default: Any) -> str:
    """Return the message for a key whose value is None, which only some keys may have."""
    return f"{key} has no value; give it one such as {default!r}, or leave the key out"


def with_default_type(key: str, value: Any, default: Any) -> Any:
    """Return the value of a key with the type of its default: a list as tuple, an integer as float.

    Raises:
        InputError: the value has another type, or is None and the default is not.
    """
    if value is None and default is not None:
        raise InputError(no_value_message(key, default))
    cfg = nest({key: default})
    try:
        cfg.merge_from_other_cfg(nest({key: match_float_default(default, value)}))
    except ValueError as error:
        raise InputError(type_message(error)) from None
    return dict(flatten(cfg))[key]
