"""A registry with explicit names, and the lookup of a configured name."""

from collections.abc import Iterable
from typing import Any

from fvcore.common.registry import Registry

from .errors import InputError
from .filled_registry import FilledRegistry
from .text import did_you_mean


class NamedRegistry(FilledRegistry):
    """Registry whose entries may have another name than the function or class."""

    def register(self, obj: Any = None, *, name: str = "") -> Any:
        """Register a function or class, in a call or as a decorator with or without arguments.

        Args:
            obj: the function or class.
            name: name of the entry; "" for its `__name__`.
        """
        if obj is None:
            return lambda decorated: self.register(decorated, name=name)
        self._do_register(name or obj.__name__, obj)
        return obj


def registered(registry: Registry, key: str, name: str, *, ignore_case: bool = False) -> Any:
    """Return the entry `name` of a registry, where `name` is the value of the configuration's `key`.

    Args:
        registry: a registry of Detectron2 or segzoo.
        key: for the message.
        name: name of the entry.
        ignore_case: accept the name in upper or lower case.

    Raises:
        InputError: there is no such entry.
    """
    if name not in registry:
        known = [entry for entry, _ in registry]
        same = [entry for entry in known if entry.lower() == name.lower()] if ignore_case else []
        if not same:
            raise InputError(f"{key} {unknown_name(name, known)}")
        name = same[0]
    return registry.get(name)


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name, with the nearest known name and all of them."""
    known = sorted(known)
    return f"{name!r} is unknown{did_you_mean(name, known)}; known: {', '.join(known)}"
