"""Saving and restoring an optimizer's state by parameter name, sharded or not."""

import logging

import torch
from torch.distributed.optim import ZeroRedundancyOptimizer

from segzoo.utils.errors import InputError

from .schedules import ScheduledLR

logger = logging.getLogger(__name__)

# What the config decides: a resumed run takes these from its own config, not from the checkpoint.
STATE_KEYS_OF_CONFIG = ("lr", "initial_lr", "weight_decay", "momentum", "nesterov", "betas", "eps")


def gather_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Brings the shares of a sharded optimizer to the main process, where `state_dict()` is whole then.

    Every process has to call it. Any other optimizer has all of it everywhere.
    """
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        optimizer.consolidate_state_dict(to=0)


def optimizer_name(optimizer: torch.optim.Optimizer) -> str:
    """The class of an optimizer, for a sharded one that of its shares: "AdamW"."""
    return type(optimizer.optim if isinstance(optimizer, ZeroRedundancyOptimizer) else optimizer).__name__


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict, written_by: str = "") -> None:
    """Restores moments and step counts by parameter name; learning rate and decay stay as configured now.

    The parameters may be grouped differently than in the checkpoint. A parameter without stored state starts
    afresh, as it would in a new run; how many did is logged.

    Args:
        optimizer: made by `build_optimizer`.
        state: an optimizer's `state_dict()`; without names (not written by segzoo) the order has to agree.
        written_by: `optimizer_name` of that one; "" where that is not known.
    """
    # Not state_dict(): a sharded optimizer has one only where its shares were gathered.
    current_groups = _numbered(optimizer.param_groups)
    name = optimizer_name(optimizer)
    differs = _has_betas(state["param_groups"]) != _has_betas(current_groups)
    if state["state"] and (differs or written_by not in ("", name)):
        logger.warning(
            "optimizer state: the checkpoint's is of another optimizer than %s, whose moments start afresh",
            name,
        )
        return
    if not all("names" in group for group in state["param_groups"]):
        restored = {**state, "param_groups": [dict(group) for group in state["param_groups"]]}
    else:
        state_of_name = {
            name: state["state"][index]
            for group in state["param_groups"]
            for name, index in zip(group["names"], group["params"], strict=True)
            if index in state["state"]
        }
        index_of_name = {
            name: index
            for group in current_groups
            for name, index in zip(group["names"], group["params"], strict=True)
        }
        restored = {
            "state": {index: state_of_name[n] for n, index in index_of_name.items() if n in state_of_name},
            "param_groups": current_groups,
        }
        fresh = [name for name in index_of_name if name not in state_of_name]
        if fresh and state_of_name:
            logger.warning(
                "optimizer state: %d of %d parameters are not in the checkpoint and start afresh, first %s",
                len(fresh),
                len(index_of_name),
                fresh[0],
            )
    if len(restored["param_groups"]) == len(current_groups):
        for group, configured in zip(restored["param_groups"], current_groups, strict=True):
            group.update({key: configured[key] for key in STATE_KEYS_OF_CONFIG if key in configured})
    optimizer.load_state_dict(restored)


def restore_scheduled(
    optimizer: torch.optim.Optimizer, state: dict, scheduler: torch.optim.lr_scheduler.LRScheduler
) -> None:
    """Sets what `scheduler` had set when `state` was saved, for one that goes on from its last values.

    A `ScheduledLR` needs no such help. Most of torch's schedulers multiply the present learning rate, and
    those with `cycle_momentum` go on from the momentum or betas.

    Args:
        optimizer: with the state loaded (`load_optimizer_state`).
        state: an optimizer's `state_dict()`.

    Raises:
        InputError: it has another number of groups than now, whose rates nobody knows.
    """
    if isinstance(scheduler, ScheduledLR):
        return
    before, now = len(state["param_groups"]), len(optimizer.param_groups)
    if before != now:
        raise InputError(
            f"{type(scheduler).__name__} goes on from the learning rates of the checkpoint, which has "
            f"{before} groups of parameters, now {now}; resume with the same groups, or use a schedule of "
            "SOLVER.LR_SCHEDULER_NAME"
        )
    keys = ("lr", "momentum", "betas") if getattr(scheduler, "cycle_momentum", False) else ("lr",)
    for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        group.update({key: saved[key] for key in keys if key in saved and key in group})


def _has_betas(groups: list[dict]) -> bool:
    """Whether the groups are those of Adam, else of SGD: neither can use the moments of the other."""
    return any("betas" in group for group in groups)


def _numbered(groups: list[dict]) -> list[dict]:
    """An optimizer's groups as its `state_dict()` has them: consecutive numbers for the parameters."""
    numbered, start = [], 0
    for group in groups:
        stop = start + len(group["params"])
        numbered.append({**group, "params": list(range(start, stop))})
        start = stop
    return numbered
