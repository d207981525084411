"""Detect models with weights that were neither loaded nor trained, whose metrics mean nothing.

The report of a model's last load is kept as long as the model exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from torch import nn

if TYPE_CHECKING:
    from .report import LoadReport


@dataclass
class _Load:
    """The last load of a model, and the version counters of the weights to watch at that time."""

    report: LoadReport
    versions: dict[str, int]


_loads: WeakKeyDictionary[nn.Module, _Load] = WeakKeyDictionary()


def remember_load(model: nn.Module, report: LoadReport) -> None:
    """Keep the report of a load until the next one."""
    _loads[model] = _Load(report, _versions(model, report))


def require_loaded(model: nn.Module) -> None:
    """Raise InputError if the last load left weights at random values or had other classes.

    A model passes if it was trained since, was loaded by other code, or was not loaded from a file.

    Args:
        model: not wrapped in DistributedDataParallel.
    """
    load = _loads.get(model)
    if load is not None and _versions(model, load.report) == load.versions:
        load.report.require_complete()


def _versions(model: nn.Module, report: LoadReport) -> dict[str, int]:
    """Return the version counters of the weights not loaded or, if all were, of all parameters.

    torch counts in-place writes, such as those of optimizers.
    """
    own = model.state_dict(keep_vars=True)
    kept = [*report.reinitialized, *report.missing] or [name for name, _ in model.named_parameters()]
    return {name: own[name]._version for name in kept if name in own}
