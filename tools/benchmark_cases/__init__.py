"""The benchmark cases.

A module of this package that has `CASES`, a list of `Case`, is a subcommand of `tools/benchmark.py`, named as
the module, with one row per case. The other modules are helpers.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import segzoo  # noqa: F401  before the cases import Detectron2: makes the library versions work together


class Pair(NamedTuple):
    """Two implementations to compare, which can be called repeatedly on the same input.

    `segzoo` and `peer` take no arguments and return the result of one complete run. `compare(ours, theirs)`
    gets both results and returns True or False, or a short text that says how close the results are
    ("gradients 2.4e-7"); a text that starts with "DIFFERENT" counts as a failure, like False.
    """

    segzoo: Callable[[], Any]
    peer: Callable[[], Any]
    compare: Callable[[Any, Any], bool | str]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        name: short and unique within its module, e.g. "semantic-512x683x150".
        description: what is measured and what the peer is, in one line.
        make: builds the input and returns the `Pair`; called once, not timed.
        goal: the ratio (peer time / segzoo time) to reach; None for a report only.
        memory: which allocations the peak counts: "torch" (CPU tensors) or "numpy" (Python and numpy).
        memory_goal: segzoo's peak as a share of the peer's, at most; None for no goal.
        repeat: number of timed pairs, if the default of the command line would take too long.
        slow: whether memory is measured in the warm-up runs instead of in separate ones.
    """

    name: str
    description: str
    make: Callable[[], Pair]
    goal: float | None = None
    memory: str = "torch"
    memory_goal: float | None = None
    repeat: int | None = None
    slow: bool = False


def load_cases() -> dict[str, list[Case]]:
    """Return {module name: its cases}, in alphabetical order of the modules."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module.CASES for name, module in modules.items() if hasattr(module, "CASES")}
