"""Parts of error messages, and the check that what has to be told apart can be."""

from collections.abc import Iterable, Mapping
from typing import Any

from segzoo.errors import InputError, did_you_mean

__all__ = ["check_different", "check_keys", "did_you_mean", "some"]


def some(items: Iterable[object], most: int = 5) -> str:
    """The items separated by commas, cut after `most` of them."""
    items = list(items)
    return ", ".join(str(item) for item in items[:most]) + (", ..." if len(items) > most else "")


def check_different(ids: Iterable[object], json_file: str, what: str) -> None:
    """Raises InputError if two of the ids are equal: `what` is said of them, as in "images have the id"."""
    ids, seen = list(ids), set()
    if len(set(ids)) == len(ids):
        return
    for one in ids:
        if one in seen:
            raise InputError(f"{json_file}: two {what} {one}; each has to have its own")
        seen.add(one)


def check_keys(facts: Any, known: Any, where: str, unknown: str = ": unknown key") -> None:
    """Raises InputError if `facts`, which stand at `where` in a YAML, have a key that is not known."""
    if not isinstance(facts, Mapping):
        raise InputError(f"{where}: {facts!r} is not a mapping of keys to values")
    for key in facts:
        if key not in known:
            raise InputError(
                f"{where}{unknown} {key}{did_you_mean(key, known) or '; known: ' + some(known, 30)}"
            )


class RemediedError(InputError):
    """A wrong dataset, and what to write into its YAML.

    Attributes:
        keys: {key of the YAML: its value}, the remedy.
    """

    def __init__(self, message: str, keys: Mapping[str, Any]) -> None:
        super().__init__(message, dict(keys))  # both, so that it can be sent between processes
        self.keys = dict(keys)

    def __str__(self) -> str:
        return self.args[0]
