"""Models with weights that no file has filled and no training has changed, whose metrics mean nothing.

The report of a model's last load is kept as long as the model lives.
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
    """The last load of a model, and how often each weight to watch had been written by then."""

    report: LoadReport
    versions: dict[str, int]


_loads: WeakKeyDictionary[nn.Module, _Load] = WeakKeyDictionary()


def remember_load(model: nn.Module, report: LoadReport) -> None:
    """Keep the report of a load until the next one."""
    _loads[model] = _Load(report, _versions(model, report))


def require_loaded(model: nn.Module) -> None:
    """Raise InputError if the model is as a checkpoint left it, and that did not fit the model.

    It left weights at random values, or is of other classes. A model that was trained since passes, and one
    that was loaded by other code, or from no file.

    Args:
        model: not wrapped in DistributedDataParallel.
    """
    load = _loads.get(model)
    if load is not None and _versions(model, load.report) == load.versions:
        load.report.require_complete()


def _versions(model: nn.Module, report: LoadReport) -> dict[str, int]:
    """How often each weight that kept its initial values, or else each parameter, has been written.

    Optimizers write in place, which torch counts.
    """
    own = model.state_dict(keep_vars=True)
    kept = [*report.reinitialized, *report.missing] or [name for name, _ in model.named_parameters()]
    return {name: own[name]._version for name in kept if name in own}
