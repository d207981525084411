"""Save and restore an optimizer's state by parameter name, sharded or not."""

import logging

import torch
from torch.distributed.optim import ZeroRedundancyOptimizer

from segzoo.utils.errors import InputError

from .schedules import ScheduledLR

logger = logging.getLogger(__name__)

# A resumed run takes these from its config, not from the checkpoint.
CONFIGURED_KEYS = (
    *("lr", "initial_lr", "weight_decay", "momentum", "nesterov", "betas", "eps"),
    # How the update is computed, which depends on the device.
    *("fused", "foreach"),
)


def gather_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Gather the state of a sharded optimizer on the main process, for its `state_dict()`.

    Every process has to call it. Other optimizers hold all of their state and are left as they are.
    """
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        optimizer.consolidate_state_dict(to=0)


def optimizer_name(optimizer: torch.optim.Optimizer) -> str:
    """Return the class name of an optimizer, such as "AdamW", or of the one that is sharded."""
    return type(optimizer.optim if isinstance(optimizer, ZeroRedundancyOptimizer) else optimizer).__name__


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict, written_by: str = "") -> None:
    """Restore moments and step counts by parameter name; learning rate and decay stay as configured.

    The parameters may be grouped differently than in the checkpoint. Parameters without stored state start
    with empty state, as in a new run; their number is logged.

    Args:
        optimizer: made by `build_optimizer`.
        state: an optimizer's `state_dict()`; without names (not written by segzoo) the order has to agree.
        written_by: `optimizer_name` of that optimizer; "" if unknown.
    """
    # Not state_dict(): a sharded optimizer has one only after gathering.
    current_groups = _numbered(optimizer.param_groups)
    name = optimizer_name(optimizer)
    differs = _has_betas(state["param_groups"]) != _has_betas(current_groups)
    if state["state"] and (differs or written_by not in ("", name)):
        logger.warning(
            "optimizer state: the checkpoint's is from another optimizer than %s, whose moments start empty",
            name,
        )
        return
    if not all("names" in group for group in state["param_groups"]):
        restored = {**state, "param_groups": [dict(group) for group in state["param_groups"]]}
    else:
        state_by_name = {
            name: state["state"][index]
            for group in state["param_groups"]
            for name, index in zip(group["names"], group["params"], strict=True)
            if index in state["state"]
        }
        index_by_name = {
            name: index
            for group in current_groups
            for name, index in zip(group["names"], group["params"], strict=True)
        }
        restored = {
            "state": {index: state_by_name[n] for n, index in index_by_name.items() if n in state_by_name},
            "param_groups": current_groups,
        }
        fresh = [name for name in index_by_name if name not in state_by_name]
        if fresh and state_by_name:
            logger.warning(
                "optimizer state: %d of %d parameters are not in the checkpoint and start empty, first %s",
                len(fresh),
                len(index_by_name),
                fresh[0],
            )
    if len(restored["param_groups"]) == len(current_groups):
        for group, configured in zip(restored["param_groups"], current_groups, strict=True):
            group.update({key: configured[key] for key in CONFIGURED_KEYS if key in configured})
    optimizer.load_state_dict(restored)


def restore_scheduled(
    optimizer: torch.optim.Optimizer, state: dict, scheduler: torch.optim.lr_scheduler.LRScheduler
) -> None:
    """Restore the values that `scheduler` had set when `state` was saved, if it continues from them.

    A `ScheduledLR` does not need them. Most of torch's schedulers multiply the current learning rate, and
    those with `cycle_momentum` continue from the momentum or betas.

    Args:
        optimizer: with the state loaded (`load_optimizer_state`).
        state: an optimizer's `state_dict()`.

    Raises:
        InputError: the state has another number of parameter groups than the optimizer.
    """
    if isinstance(scheduler, ScheduledLR):
        return
    before, now = len(state["param_groups"]), len(optimizer.param_groups)
    if before != now:
        raise InputError(
            f"{type(scheduler).__name__} continues from the learning rates of the checkpoint, which has "
            f"{before} parameter groups, now {now}; resume with the same groups, or use a schedule of "
            "SOLVER.LR_SCHEDULER_NAME"
        )
    keys = ("lr", "momentum", "betas") if getattr(scheduler, "cycle_momentum", False) else ("lr",)
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        group.update({key: saved[key] for key in keys if key in saved and key in group})


def _has_betas(groups: list[dict]) -> bool:
    """Return whether the groups are from Adam, else from SGD: neither can use the moments of the other."""
    return any("betas" in group for group in groups)


def _numbered(groups: list[dict]) -> list[dict]:
    """Return an optimizer's groups as in its `state_dict()`, with consecutive numbers for the parameters."""
    numbered, start = [], 0
    for group in groups:
        stop = start + len(group["params"])
        numbered.append({**group, "params": list(range(start, stop))})
        start = stop
    return numbered
