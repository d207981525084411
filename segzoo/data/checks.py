"""Checks of dataset descriptions: known keys, unique ids, and errors that carry a remedy."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean, some


def check_different(ids: Iterable[object], json_file: str, what: str) -> None:
    """Raise InputError if two of the ids are equal: `what` names them, as in "images have the id"."""
    ids, seen = list(ids), set()
    if len(set(ids)) == len(ids):
        return
    for one in ids:
        if one in seen:
            raise InputError(f"{json_file}: two {what} {one}; it must be unique")
        seen.add(one)


def check_keys(content: Any, known: Any, where: str, unknown: str = ": unknown key") -> None:
    """Raise InputError if `content`, the mapping at `where` in a YAML, has a key that is not known."""
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: {content!r} is not a mapping of keys to values")
    for key in content:
        if key not in known:
            raise InputError(
                f"{where}{unknown} {key}{did_you_mean(key, known) or '; known: ' + some(known, 30)}"
            )


class RemediedError(InputError):
    """A wrong dataset that keys in its YAML can remedy.

    Attributes:
        keys: {key of the YAML: its value}, the remedy.
    """

    def __init__(self, message: str, keys: Mapping[str, Any]) -> None:
        super().__init__(message, dict(keys))  # both, for pickling
        self.keys = dict(keys)

    def __str__(self) -> str:
        return self.args[0]
