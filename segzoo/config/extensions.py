"""Register configuration keys of projects and of the modules in IMPORTS."""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, overload

from detectron2.config import CfgNode

from segzoo.utils.errors import InputError
from segzoo.utils.methods import PROJECTS
from segzoo.utils.text import did_you_mean

from .defaults import default_config
from .keys import drop_key, find_section, flatten
from .rule_types import Rule

AddConfig = Callable[[CfgNode], object]


class Extension(NamedTuple):
    """Keys that a module has registered.

    Attributes:
        add: adds the keys with their defaults to a configuration, in place.
        rules: {key: rule of its value}.
    """

    add: AddConfig
    rules: Mapping[str, Rule]


_registered: dict[str, Extension] = {}


@overload
def register_config(add: AddConfig, *, rules: Mapping[str, Rule] | None = None) -> AddConfig: ...


@overload
def register_config(*, rules: Mapping[str, Rule]) -> Callable[[AddConfig], AddConfig]: ...


def register_config(add=None, *, rules=None):
    """Register a function that adds keys to every new configuration; usable as a decorator.

    It replaces an earlier function of the same module and name, as when a module is imported again.

    Args:
        add: called with a configuration, adds keys with their defaults in place.
        rules: {full key, such as "MODEL.UNET.DEPTH": rule of its value}, with `at_least`, `one_of`, `COUNT`
            and others of `segzoo.config`, or your own `Rule`.

    Raises:
        InputError: `add` has no name: a lambda, or an object such as a `functools.partial`.
    """
    if add is None:
        return lambda function: register_config(function, rules=rules)
    name = getattr(add, "__qualname__", "<lambda>")
    if name.endswith("<lambda>"):
        found = type(add).__name__ if not hasattr(add, "__qualname__") else f"a lambda in {add.__module__}"
        raise InputError(f"register_config needs a named function, found {found}; define one with def")
    _registered[f"{add.__module__}.{name}"] = Extension(add, dict(rules or {}))
    return add


def add_registered_config(cfg: CfgNode) -> dict[str, str]:
    """Add the keys of all projects and imported modules, in the order of registration.

    Returns:
        The module that added each key.

    Raises:
        InputError: a rule is registered for a key that does not exist, or two packages add the same key with
            different defaults.
    """
    importlib.import_module(PROJECTS)
    added_by: dict[str, str] = {}
    before = dict(flatten(cfg))
    for extension in _registered.values():
        extension.add(cfg)
        after = dict(flatten(cfg))
        module = extension.add.__module__
        _check_kept(added_by, before, after, module)
        for key, value in after.items():
            # An empty section may be filled by other modules.
            if key not in before and not isinstance(value, CfgNode):
                added_by[key] = module
        before = after
    known = {key for key, _ in flatten(cfg)}
    for name, extension in _registered.items():
        for key in extension.rules.keys() - known:
            raise InputError(f"{name} registers a rule for unknown key {key}{did_you_mean(key, known)}")
    return added_by


def _check_kept(
    added_by: Mapping[str, str], before: Mapping[str, Any], after: Mapping[str, Any], module: str
) -> None:
    """Raise InputError if `module` changed or removed a key that another package added."""
    for key, owner in added_by.items():
        if _package(owner) == _package(module):
            continue
        kept = key in after and type(after[key]) is type(before[key]) and after[key] == before[key]
        if not kept:
            raise InputError(
                f"{key} is added by {owner} and {'changed' if key in after else 'removed'} by {module}; "
                "give one of them another name, or set the value in a YAML file"
            )


def registered_extensions() -> list[Extension]:
    """Return the extensions of all projects and imported modules, in the order of registration."""
    importlib.import_module(PROJECTS)
    return list(_registered.values())


def registered_rules() -> Iterator[tuple[str, Rule]]:
    """Yield each key of projects and imported modules that has a rule, and the rule."""
    for extension in _registered.values():
        yield from extension.rules.items()


def drop_foreign_defaults(cfg: CfgNode) -> None:
    """Remove keys of modules that `cfg` does not import, if they have their defaults, in place.

    Another configuration of the same process imported those modules. Without such keys a saved configuration
    means the same, and is valid where the modules do not exist.
    """
    packages = {_package(module) for module in (PROJECTS, *cfg.IMPORTS)}
    defaults = default_config()
    added_by = add_registered_config(defaults)
    values = dict(flatten(defaults))
    for key, module in added_by.items():
        *path, leaf = key.split(".")
        node = find_section(cfg, path)
        is_default = node is not None and leaf in node and node[leaf] == values[key]
        if is_default and _package(module) not in packages:
            drop_key(cfg, key)


def _package(module: str) -> str:
    return module.partition(".")[0]


def import_extensions(modules: Iterable[str]) -> None:
    """Import the modules of IMPORTS, from Python's path or the current folder.

    Raises:
        InputError: a module does not exist, or an entry is not the name of a module.
    """
    for module in modules:
        if not isinstance(module, str) or not all(part.isidentifier() for part in module.split(".")):
            raise InputError(f"IMPORTS {module!r}: expected the name of a module, as after Python's import")
        _import(module)


def _import(module: str) -> None:
    folder = os.getcwd()
    if folder not in sys.path:
        # The current folder, where users' modules mostly are, is not on the path of an installed command.
        sys.path.append(folder)
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        # The missing module may be one that it imports in turn.
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        remedy = "give its name without .py" if module.endswith(".py") else "add its folder to PYTHONPATH"
        raise InputError(f"IMPORTS: no module {module} in this folder or on PYTHONPATH; {remedy}") from None
