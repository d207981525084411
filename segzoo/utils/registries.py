"""Looking a name of the configuration up in a registry."""

from collections.abc import Iterable, Sequence
from typing import Any

from .errors import InputError
from .text import did_you_mean


def registered(registry: Iterable[tuple[str, Any]], key: str, name: str, *, ignore_case: bool = False) -> Any:
    """Return what is registered as `name`, the value of the configuration's `key`.

    Args:
        registry: of Detectron2 or fvcore; pairs of a name and what has it.
        key: for the message.
        name: to look up.
        ignore_case: accept the name in upper and lower case alike.

    Raises:
        InputError: nothing is.
    """
    entries = dict(registry)
    if ignore_case and name not in entries:
        name = next((known for known in entries if known.lower() == name.lower()), name)
    if name not in entries:
        raise InputError(f"{key} {unknown_name(name, entries)}")
    return entries[name]


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Return the end of a message: that `name` is unknown, the nearest of the known ones, and all of them."""
    known: Sequence[str] = sorted(known)
    return f"{name!r} is unknown{did_you_mean(name, known)}; known: {', '.join(known)}"
