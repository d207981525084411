"""Make parameter groups from the keys of SOLVER."""

import math
from collections.abc import Mapping

import torch
from detectron2.config import CfgNode

from segzoo.utils.errors import InputError

from .parameter_groups import parameter_groups
from .registry import LR_SCHEDULER_REGISTRY
from .schedules import learning_rate_factor

# Weight decays of groups of parameters, with the values that have no effect.
_NEUTRAL_DECAYS = {
    "WEIGHT_DECAY_NORM": 0.0,
    "WEIGHT_DECAY_EMBED": 0.0,
    "WEIGHT_DECAY_HEAD_NORM": None,
    "WEIGHT_DECAY_BIAS": None,
}


def groups_from_config(cfg: CfgNode, model: torch.nn.Module) -> list[dict]:
    """Return the groups of `parameter_groups` with the learning rates and weight decays of SOLVER.

    Raises:
        InputError: SOLVER.LR_MULTIPLIERS is malformed, or a factor or decay has no effect.
    """
    solver = cfg.SOLVER
    return parameter_groups(
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
        lr_multipliers_by_name=[tuple(pair) for pair in solver.LR_MULTIPLIERS_BY_NAME],
        layer_decay=solver.LAYER_DECAY,
        schedules=_schedule_prefixes(cfg),
    )


def _schedule_prefixes(cfg: CfgNode) -> tuple[str, ...]:
    """Return the name prefixes of the parameters with a separate schedule."""
    if cfg.SOLVER.LR_SCHEDULER_NAME not in LR_SCHEDULER_REGISTRY:
        return ()  # an overridden build_lr_scheduler makes the schedule
    schedule = learning_rate_factor(cfg)
    return tuple(filter(None, schedule)) if isinstance(schedule, Mapping) else ()


def _decay_by_name(solver: CfgNode) -> list[tuple[str, float | None]]:
    pairs = [tuple(pair) for pair in solver.WEIGHT_DECAY_BY_NAME]
    if any(not expression for expression, _ in pairs):
        for key, unset in _NEUTRAL_DECAYS.items():
            if solver[key] != unset:
                raise InputError(
                    f"SOLVER.{key} {solver[key]} has no effect here: SOLVER.WEIGHT_DECAY_BY_NAME applies to "
                    'every parameter; change it, or set SOLVER.WEIGHT_DECAY_BY_NAME "[]"'
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
