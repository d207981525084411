"""The papers, a package each.

Importing this package brings the configuration keys of all of them. `load_all()` imports the rest, and so
fills the registries; a registry that is asked for a name calls it (`segzoo.utils.methods`).
"""

import importlib
import pkgutil

# Every package of this folder is a method.
METHODS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg))

for _method in METHODS:
    importlib.import_module(f"{__name__}.{_method}")


# Those of which `load_all` has not imported everything.
_waiting = list(METHODS)


def load_all() -> None:
    """Import what every method exports; once."""
    while _waiting:
        # Out of the list first: what is imported may look a name up in its turn.
        method = _waiting.pop(0)
        try:
            _load(method)
        except BaseException:
            _waiting.insert(0, method)
            raise


def _load(method: str) -> None:
    package = importlib.import_module(f"{__name__}.{method}")
    for name in package.__all__:
        getattr(package, name)
