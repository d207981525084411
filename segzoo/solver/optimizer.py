"""Build the optimizer that SOLVER configures, sharded or not."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch.distributed.optim import ZeroRedundancyOptimizer

from segzoo.utils.registries import registered

from .config_groups import groups_from_config
from .registry import OPTIMIZER_REGISTRY

OptimizerClass = type[torch.optim.Optimizer]

# Type of the device on which optimizers are fused.
FUSED_ON = "cuda"


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of SOLVER; gradient clipping is separate (`build_gradient_clipper`).

    With SOLVER.SHARD_OPTIMIZER each process keeps the moments of its share of the parameters and updates
    those (Rajbhandari et al. 2020, ZeRO stage 1); the resulting weights are the same.

    Raises:
        InputError: SOLVER.OPTIMIZER is unknown, SOLVER.LR_MULTIPLIERS malformed, or a decay has no effect.
    """
    optimizer_class, settings = find_optimizer(cfg)
    groups = groups_from_config(cfg, model)
    defaults = {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
    if "foreach" not in settings:  # PyTorch refuses both
        defaults |= _fused(optimizer_class, groups)
    settings = {**defaults, **settings}
    if cfg.SOLVER.SHARD_OPTIMIZER and comm.get_world_size() > 1:
        sharded = ZeroRedundancyOptimizer(groups, optimizer_class=optimizer_class, **settings)
        _start_momentum(sharded.optim)
        return sharded
    optimizer = optimizer_class(groups, **settings)
    _start_momentum(optimizer)
    return optimizer


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


def _fused(optimizer_class: OptimizerClass, groups: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Return the argument of PyTorch's optimizers that updates all weights in few kernels, on a CUDA device.

    Such a one also skips an update that the device finds to be not finite, see `TrainStep`.
    """
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    own = optimizer_class.__module__.startswith("torch.optim.")
    accepts = "fused" in inspect.signature(optimizer_class).parameters
    return {"fused": True} if own and accepts and devices == {FUSED_ON} else {}


def _start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Set the momentum of fused SGD to zero.

    PyTorch allocates it in the first update, and leaves it uninitialized if that update is skipped because a
    gradient is not finite, as GradScaler's first ones often are.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        # With dampening, which makes the first update another one, PyTorch has to start it.
        if group["fused"] and group["momentum"] and not group["dampening"]:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
