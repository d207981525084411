"""A registry that imports segzoo's methods before it says that it does not know a name."""

from collections.abc import Iterator
from typing import Any

from fvcore.common.registry import Registry

from .methods import load_methods


class FilledRegistry(Registry):
    """fvcore's registry, in which names that it does not have yet are looked for among segzoo's methods."""

    def get(self, name: str) -> Any:
        """Return what is registered as `name`."""
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

    def _look_for(self, name: str) -> None:
        if not super().__contains__(name):
            load_methods()
