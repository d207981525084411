"""What a benchmark case is, and the list of them.

A module of this package that offers `CASES`, a list of `Case`, is a subcommand of `tools/benchmark.py`,
named as the module, with one row per case. Modules without it are there for the others to use.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import segzoo  # noqa: F401  before the cases import Detectron2: makes the library versions work together


class Pair(NamedTuple):
    """The two things compared, ready to be called again and again on the same input.

    `segzoo` and `peer` take nothing and return the result of one whole run. `compare(ours, theirs)` gets
    the result of each and returns True or False, or a short text that says how close the results are
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
        description: what is measured and who the peer is, in one line.
        make: builds the input and returns the `Pair`; called once, not timed.
        goal: the ratio (peer time / segzoo time) to reach; None where there is only a report.
        memory: which allocations the peak counts: "torch" (CPU tensors) or "numpy" (Python and numpy).
        memory_goal: segzoo's peak as a share of the peer's, at most; None where there is no goal.
        repeat: paired runs, where the default of the command line would take too long.
        slow: memory is measured in the runs that warm up, instead of in runs of its own.
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
    """Returns {module name: its cases}, in alphabetical order of the modules."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module.CASES for name, module in modules.items() if hasattr(module, "CASES")}
