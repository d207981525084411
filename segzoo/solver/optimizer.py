"""AdamW and SGD from the config, sharded or not, and saving and restoring their state by parameter name."""

import logging
import math

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch.distributed.optim import ZeroRedundancyOptimizer

from segzoo.utils.errors import InputError

from .parameter_groups import parameter_groups

logger = logging.getLogger(__name__)

# What the config decides: a resumed run takes these from its own config, not from the checkpoint.
STATE_KEYS_OF_CONFIG = ("lr", "initial_lr", "weight_decay", "momentum", "nesterov", "betas", "eps")
# Decays of kinds of parameters, with the values that say nothing.
_DECAY_BY_KIND = {
    "WEIGHT_DECAY_NORM": 0.0,
    "WEIGHT_DECAY_EMBED": 0.0,
    "WEIGHT_DECAY_HEAD_NORM": None,
    "WEIGHT_DECAY_BIAS": None,
}


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Builds the optimizer that SOLVER names; gradient clipping is separate (`build_gradient_clipper`).

    With SOLVER.SHARD_OPTIMIZER each of several processes keeps the moments of its share of the parameters and
    updates those (Rajbhandari et al. 2020, ZeRO stage 1); the weights become the same.

    Raises:
        InputError: an unknown SOLVER.OPTIMIZER, a malformed SOLVER.LR_MULTIPLIERS, a decay without effect.
    """
    solver = cfg.SOLVER
    groups = parameter_groups(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_embed=solver.WEIGHT_DECAY_EMBED,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        weight_decay_head_norm=solver.WEIGHT_DECAY_HEAD_NORM,
        weight_decay_by_name=_decay_by_name(solver),
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        lr_multipliers=_lr_multipliers(cfg, model),
    )
    settings = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    if solver.OPTIMIZER == "AdamW":
        optimizer_class = torch.optim.AdamW
    elif solver.OPTIMIZER == "SGD":
        optimizer_class = torch.optim.SGD
        settings |= {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
    else:
        raise InputError(f"SOLVER.OPTIMIZER: {solver.OPTIMIZER!r} is not known; choose AdamW or SGD")
    if solver.SHARD_OPTIMIZER and comm.get_world_size() > 1:
        return ZeroRedundancyOptimizer(groups, optimizer_class=optimizer_class, **settings)
    return optimizer_class(groups, **settings)


def gather_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Brings the shares of a sharded optimizer to the main process, where `state_dict()` is whole then.

    Every process has to call it. Any other optimizer has all of it everywhere.
    """
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        optimizer.consolidate_state_dict(to=0)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Restores moments and step counts by parameter name; learning rate and decay stay as configured now.

    The parameters may be grouped differently than in the checkpoint. A parameter without stored state starts
    afresh, as it would in a new run; how many did is logged.

    Args:
        optimizer: made by `build_optimizer`.
        state: an optimizer's `state_dict()`; without names (not written by segzoo) the order has to agree.
    """
    # Not state_dict(): a sharded optimizer has one only where its shares were gathered.
    current_groups = _numbered(optimizer.param_groups)
    if _has_betas(state["param_groups"]) != _has_betas(current_groups) and state["state"]:
        logger.warning(
            "optimizer state: the checkpoint's is of another optimizer than %s, whose moments start afresh",
            type(optimizer).__name__,
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


def _decay_by_name(solver: CfgNode) -> list[tuple[str, float | None]]:
    pairs = [tuple(pair) for pair in solver.WEIGHT_DECAY_BY_NAME]
    if any(not expression for expression, _ in pairs):
        for key, unset in _DECAY_BY_KIND.items():
            if solver[key] != unset:
                raise InputError(
                    f"SOLVER.{key} {solver[key]} has no effect here: SOLVER.WEIGHT_DECAY_BY_NAME decides for "
                    'every parameter; change that, or set SOLVER.WEIGHT_DECAY_BY_NAME "[]"'
                )
    return pairs


def _lr_multipliers(cfg: CfgNode, model: torch.nn.Module) -> dict[str, float]:
    multipliers = {}
    has_backbone = any(
        name.startswith("backbone.") and p.requires_grad for name, p in model.named_parameters()
    )
    if cfg.SOLVER.BACKBONE_MULTIPLIER != 1.0 and has_backbone:
        multipliers["backbone"] = cfg.SOLVER.BACKBONE_MULTIPLIER
    if cfg.SOLVER.HEAD_MULTIPLIER != 1.0:
        parts = [name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad]
        multipliers |= {part: cfg.SOLVER.HEAD_MULTIPLIER for part in parts if part != "backbone"}
    for entry in cfg.SOLVER.LR_MULTIPLIERS:
        well_formed = isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[0], str)
        if not well_formed or isinstance(entry[1], bool) or not isinstance(entry[1], int | float):
            raise InputError(
                f"SOLVER.LR_MULTIPLIERS: {entry!r} is not a pair of name prefix and factor; "
                'write e.g. [["sem_seg_head", 10.0]]'
            )
        if not 0 <= entry[1] < math.inf:
            raise InputError(f"SOLVER.LR_MULTIPLIERS: {entry!r}: expected a finite factor of at least 0")
        multipliers[entry[0].rstrip(".")] = float(entry[1])
    return multipliers
