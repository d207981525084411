"""Run code before and after the import of a module of another package."""

import functools
import importlib.abc
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.machinery import ModuleSpec
from typing import Any

# A context manager around the import of a module: up to `yield` before its code is executed, the rest after.
Around = Callable[[types.ModuleType], AbstractContextManager[None]]

_hooks: dict[str, list[Around]] = {}


def around_import(name: str, around: Around) -> None:
    """Enter `around(module)` while a module is executed, or at once if it was already imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    _hooks.setdefault(name, []).append(around)
    if name in sys.modules:
        with around(sys.modules[name]):
            pass


def after_import(name: str, function: Callable[[], object]) -> None:
    """Call `function()` after the import of a module, or at once if it was already imported."""

    @contextmanager
    def around(module: types.ModuleType) -> Iterator[None]:
        yield
        function()

    around_import(name, around)


class _Finder(importlib.abc.MetaPathFinder):
    """Finder of modules with hooks that uses the other finders and wraps the execution of the modules."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name not in _hooks:
            return None
        others = (finder for finder in sys.meta_path if not isinstance(finder, _Finder))
        specs = (finder.find_spec(name, path, target) for finder in others if hasattr(finder, "find_spec"))
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            # On the instance, so that the loader is otherwise unchanged.
            spec.loader.exec_module = functools.partial(  # type: ignore[method-assign]
                _execute, spec.loader.exec_module
            )
        return spec


def _execute(execute: Callable[[types.ModuleType], None], module: types.ModuleType) -> None:
    with ExitStack() as stack:
        for around in _hooks[module.__name__]:
            stack.enter_context(around(module))
        execute(module)
