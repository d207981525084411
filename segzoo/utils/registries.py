"""Registries of functions under names of their own, and looking a name of the configuration up."""

from collections.abc import Iterable
from typing import Any

from fvcore.common.registry import Registry

from .errors import InputError
from .filled_registry import FilledRegistry
from .text import did_you_mean


class NamedRegistry(FilledRegistry):
    """Detectron2's registry, whose entries may have another name than the function or class."""

    def register(self, obj: Any = None, *, name: str = "") -> Any:
        """Register a function or class; as a call, or as a decorator with or without arguments.

        Args:
            name: by which it is found; "": its `__name__`.
        """
        if obj is None:
            return lambda decorated: self.register(decorated, name=name)
        self._do_register(name or obj.__name__, obj)
        return obj


def registered(registry: Registry, key: str, name: str, *, ignore_case: bool = False) -> Any:
    """Return what is registered as `name`, the value of the configuration's `key`.

    Args:
        registry: of Detectron2 or of segzoo.
        key: for the message.
        name: to look up.
        ignore_case: accept the name in upper and lower case alike.

    Raises:
        InputError: nothing is.
    """
    if name not in registry:
        known = [entry for entry, _ in registry]
        alike = [entry for entry in known if entry.lower() == name.lower()] if ignore_case else []
        if not alike:
            raise InputError(f"{key} {unknown_name(name, known)}")
        name = alike[0]
    return registry.get(name)


def unknown_name(name: str, known: Iterable[str]) -> str:
    """Return the end of a message: that `name` is unknown, the nearest of the known ones, and all of them."""
    known = sorted(known)
    return f"{name!r} is unknown{did_you_mean(name, known)}; known: {', '.join(known)}"
