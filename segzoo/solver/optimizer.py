"""Build the optimizer that SOLVER configures, sharded or not."""

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch.distributed.optim import ZeroRedundancyOptimizer

from segzoo.utils.registries import registered

from .config_groups import groups_from_config
from .registry import OPTIMIZER_REGISTRY

OptimizerClass = type[torch.optim.Optimizer]


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of SOLVER; gradient clipping is separate (`build_gradient_clipper`).

    With SOLVER.SHARD_OPTIMIZER each process keeps the moments of its share of the parameters and updates
    those (Rajbhandari et al. 2020, ZeRO stage 1); the resulting weights are the same.

    Raises:
        InputError: SOLVER.OPTIMIZER is unknown, SOLVER.LR_MULTIPLIERS malformed, or a decay has no effect.
    """
    optimizer_class, settings = find_optimizer(cfg)
    groups = groups_from_config(cfg, model)
    settings = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY, **settings}
    if cfg.SOLVER.SHARD_OPTIMIZER and comm.get_world_size() > 1:
        return ZeroRedundancyOptimizer(groups, optimizer_class=optimizer_class, **settings)
    return optimizer_class(groups, **settings)


def find_optimizer(cfg: CfgNode) -> tuple[OptimizerClass, dict]:
    """Return the class of SOLVER.OPTIMIZER, whose name ignores case, and its keyword arguments.

    Raises:
        InputError: no optimizer is registered under that name.
    """
    return registered(OPTIMIZER_REGISTRY, "SOLVER.OPTIMIZER", cfg.SOLVER.OPTIMIZER, ignore_case=True)(cfg)


@OPTIMIZER_REGISTRY.register(name="AdamW")
def adamw(cfg: CfgNode) -> tuple[OptimizerClass, dict]:
    """Return Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return torch.optim.AdamW, {}


@OPTIMIZER_REGISTRY.register(name="SGD")
def sgd(cfg: CfgNode) -> tuple[OptimizerClass, dict]:
    """Return stochastic gradient descent with SOLVER.MOMENTUM and SOLVER.NESTEROV."""
    return torch.optim.SGD, {"momentum": cfg.SOLVER.MOMENTUM, "nesterov": cfg.SOLVER.NESTEROV}
