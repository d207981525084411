"""Import the exported names of a package when they are first used.

The package's `__init__.py` imports them for editors and type checkers only:

    from typing import TYPE_CHECKING

    from segzoo.utils.lazy_exports import lazy_exports

    if TYPE_CHECKING:
        from . import key_map
        from .head import PSPHead
    else:
        __getattr__, __dir__ = lazy_exports(__name__)

    __all__ = ["PSPHead", "key_map"]

The import statements are read from the file itself, so they are not repeated. An exported name must not be
that of a module of the package: importing the module would overwrite it.
"""

import ast
import functools
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .moved import MOVED


def lazy_exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package, for the imports of its `if TYPE_CHECKING:` block.

    Args:
        package: its `__name__`.
    """

    @functools.cache
    def sources() -> dict[str, tuple[str, str]]:
        return dict(deferred_imports(package))

    def get(name: str) -> Any:
        if f"{package}.{name}" in MOVED:
            return importlib.import_module(f"{package}.{name}")
        if name.startswith("__") or name not in sources():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = sources()[name]
        value = importlib.import_module(module)
        if attribute:
            value = getattr(value, attribute)
        # From now on Python finds the attribute itself.
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *sources()})

    return get, names


def deferred_imports(package: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield (name, (module, attribute)) of each import in the block; the attribute is "" for a module."""
    tree = ast.parse(pkgutil.get_data(package, "__init__.py") or b"")
    blocks = [node.body for node in tree.body if isinstance(node, ast.If) and _is_type_checking(node.test)]
    for node in (node for block in blocks for node in block):
        if not isinstance(node, ast.ImportFrom):
            raise SyntaxError(f"{package}, line {node.lineno}: expected `from MODULE import NAME`")
        module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
        for alias in node.names:
            is_module = node.module is None
            source = (f"{module}.{alias.name}", "") if is_module else (module, alias.name)
            yield alias.asname or alias.name, source


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
