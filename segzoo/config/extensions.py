"""Keys from outside this package: every project, and every module of IMPORTS, may register its own."""

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
        add: adds them with their defaults to a configuration, in place.
        rules: {key: what its value may be}.
    """

    add: AddConfig
    rules: Mapping[str, Rule]


_registered: dict[str, Extension] = {}


@overload
def register_config(add: AddConfig, *, rules: Mapping[str, Rule] | None = None) -> AddConfig: ...


@overload
def register_config(*, rules: Mapping[str, Rule]) -> Callable[[AddConfig], AddConfig]: ...


def register_config(add=None, *, rules=None):
    """Let `add(cfg)` add keys with their defaults, in place, to every new configuration; a decorator.

    A function of the same module and name, as of a module that is imported again, replaces the earlier one.

    Args:
        rules: {key with its sections, "MODEL.UNET.DEPTH": what its value may be}, of `segzoo.config`'s
            `at_least`, `one_of`, `COUNT` and others, or a `Rule` of your own.

    Raises:
        InputError: `add` has no name of its own: a lambda, or an object such as a `functools.partial`.
    """
    if add is None:
        return lambda function: register_config(function, rules=rules)
    name = getattr(add, "__qualname__", "<lambda>")
    if name.endswith("<lambda>"):
        found = type(add).__name__ if not hasattr(add, "__qualname__") else f"a lambda of {add.__module__}"
        raise InputError(
            f"register_config needs a function with a name, which tells it from others, found {found}; "
            "define one with def"
        )
    _registered[f"{add.__module__}.{name}"] = Extension(add, dict(rules or {}))
    return add


def add_registered_config(cfg: CfgNode) -> dict[str, str]:
    """Add the keys of all projects and imported modules, in the order in which they were registered.

    Returns:
        The module that has added each key.

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
            # An empty section is there for others to fill.
            if key not in before and not isinstance(value, CfgNode):
                added_by[key] = module
        before = after
    known = {key for key, _ in flatten(cfg)}
    for name, extension in _registered.items():
        for key in extension.rules.keys() - known:
            raise InputError(f"{name} registers a rule for {key}, which is no key{did_you_mean(key, known)}")
    return added_by


def _check_kept(
    added_by: Mapping[str, str], before: Mapping[str, Any], after: Mapping[str, Any], module: str
) -> None:
    """Raise InputError where `module` has changed or removed a key that another package added."""
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
    """Return what all projects and imported modules have registered, in that order."""
    importlib.import_module(PROJECTS)
    return list(_registered.values())


def registered_rules() -> Iterator[tuple[str, Rule]]:
    """Yield the keys of all projects and imported modules that have a rule, and the rule."""
    for extension in _registered.values():
        yield from extension.rules.items()


def drop_foreign_defaults(cfg: CfgNode) -> None:
    """Remove the keys at their defaults that come from modules which `cfg` does not import, in place.

    Another configuration of the same process has imported those modules. A saved configuration without such
    keys says the same, and is valid where the modules are not there.
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
