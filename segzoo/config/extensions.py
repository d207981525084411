"""Keys from outside this package: every project, and every module of IMPORTS, may register its own."""

import importlib
import os
import sys
from collections.abc import Callable, Iterable

from detectron2.config import CfgNode

from segzoo.utils.errors import InputError

AddConfig = Callable[[CfgNode], object]

# The methods of this package register their keys as a private package does, when they are imported.
PROJECTS = "segzoo.projects"

_added: dict[str, AddConfig] = {}


def register_config(add: AddConfig) -> AddConfig:
    """Let `add(cfg)` add keys with their defaults, in place, to every new configuration; a decorator.

    A function of the same module and name, as of a module that is imported again, replaces the earlier one.
    """
    _added[f"{add.__module__}.{add.__qualname__}"] = add
    return add


def add_registered_config(cfg: CfgNode) -> None:
    """Add the keys of all projects and imported modules, in the order in which they were registered."""
    importlib.import_module(PROJECTS)
    for add in _added.values():
        add(cfg)


def import_extensions(modules: Iterable[str]) -> None:
    """Import the modules of IMPORTS, which are looked for in the current folder, too.

    Raises:
        InputError: one does not exist.
    """
    for module in modules:
        _import(module)


def _import(module: str) -> None:
    folder = os.getcwd()
    if folder not in sys.path:
        # Where a script is started is not on Python's path, but where a user's own module mostly lies.
        sys.path.append(folder)
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that it imports in turn may be the one that is missing.
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise InputError(
            f"IMPORTS: no module {module} in this folder or on PYTHONPATH; add its folder to that"
        ) from None
