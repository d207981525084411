"""A registry that imports segzoo's methods before it reports an unknown name."""

from collections.abc import Iterator
from typing import Any

from fvcore.common.registry import Registry

from .errors import InputError
from .methods import load_methods


class FilledRegistry(Registry):
    """fvcore's registry that imports segzoo's methods when a name is not found.

    An object registered again by the same module under the same name, as when a module is imported again,
    replaces the earlier one.
    """

    def get(self, name: str) -> Any:
        """Return the object registered as `name`."""
        self._look_for(name)
        return super().get(name)

    def __contains__(self, name: str) -> bool:
        self._look_for(name)
        return super().__contains__(name)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        load_methods()
        return super().__iter__()

    def __repr__(self) -> str:
        load_methods()
        return super().__repr__()

    __str__ = __repr__

    def _do_register(self, name: str, obj: Any) -> None:
        other = self._obj_map.get(name)
        if other is not None and _identity(other) == _identity(obj):
            # The module is imported again, as in a notebook or after a failed import.
            del self._obj_map[name]
        elif other is not None:
            raise InputError(
                f"{name} is registered in {self._name} by {other.__module__} and by {obj.__module__}; "
                "give one of them another name"
            )
        super()._do_register(name, obj)

    def _look_for(self, name: str) -> None:
        if not super().__contains__(name):
            load_methods()


def _identity(obj: Any) -> tuple[str, str]:
    """Return module and name; for an object without a name, such as a `functools.partial`, its id."""
    name = getattr(obj, "__qualname__", None)
    return getattr(obj, "__module__", ""), str(id(obj)) if name is None else name
