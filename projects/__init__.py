"""The methods, one package per paper.

Importing this package adds the configuration keys of all methods. `load_all()` imports the rest and so fills
the registries; a registry calls it to look up a name (`segzoo.utils.methods`).
"""

import importlib
import pkgutil

# Every package of this folder is a method.
METHODS = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg))

for _method in METHODS:
    importlib.import_module(f"{__name__}.{_method}")


# Methods that `load_all` has not imported completely.
_pending = list(METHODS)


def load_all() -> None:
    """Import what every method exports, only once."""
    while _pending:
        # Remove it first: the imported modules may look up a name themselves.
        method = _pending.pop(0)
        try:
            _load(method)
        except BaseException:
            _pending.insert(0, method)
            raise


def _load(method: str) -> None:
    package = importlib.import_module(f"{__name__}.{method}")
    for name in package.__all__:
        getattr(package, name)
