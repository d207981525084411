"""Learning-rate schedules by iteration, as closed formulas of the iteration alone.

t is the iteration (0 for the first), T = SOLVER.MAX_ITER, w = SOLVER.WARMUP_ITERS, f = SOLVER.WARMUP_FACTOR.
Nothing accumulates, so a resumed run needs only t and follows its own config exactly.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

import torch
from detectron2.config import CfgNode

from segzoo.utils.errors import InputError

Factor = Callable[[int], float]


def warmup_factor(iteration: int, iterations: int, factor: float, method: str = "linear") -> float:
    """`factor` rising linearly to 1 at t = w, or constant until then (Goyal et al. 2017, section 2.2)."""
    if iteration >= iterations:
        return 1.0
    if method == "constant":
        return factor
    share = iteration / iterations
    return factor * (1.0 - share) + share


def poly_factor(iteration: int, max_iter: int, power: float, constant_ending: float = 0.0) -> float:
    """(1 - t/T)^power, and never below `constant_ending` (DeepLab, Chen et al. 2017)."""
    return max((1.0 - min(iteration, max_iter) / max_iter) ** power, constant_ending)


def step_factor(iteration: int, steps: Sequence[int], gamma: float) -> float:
    """gamma^k after k of the ascending `steps` have been reached."""
    return gamma ** bisect_right(steps, iteration)


def cosine_factor(iteration: int, max_iter: int) -> float:
    """Half a cosine from 1 to 0: (1 + cos(pi t/T)) / 2 (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * min(iteration, max_iter) / max_iter))


class ScheduledLR(torch.optim.lr_scheduler.LRScheduler):
    """Sets each group's learning rate to its configured value times `factor(t)`.

    `step()` goes to the next iteration. The state is t alone; loading it also sets the learning rates, from
    the values configured now, so that a changed SOLVER.BASE_LR takes effect on resuming.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, factor: Factor):
        self.factor = factor
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        factor = self.factor(self.last_epoch)
        return [base_lr * factor for base_lr in self.base_lrs]

    def state_dict(self) -> dict:
        return {"iteration": self.last_epoch}

    def load_state_dict(self, state_dict: dict) -> None:
        # "last_epoch" is what Detectron2's schedulers call it.
        self.last_epoch = int(state_dict.get("iteration", state_dict.get("last_epoch", 0)))
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = lr
        self._last_lr = self.get_lr()


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> ScheduledLR:
    """Builds the schedule that SOLVER.LR_SCHEDULER_NAME names.

    - WarmupPolyLR: warm-up(t) x poly(t), the constant ending only after the warm-up.
    - WarmupMultiStepLR, WarmupCosineLR: as in Detectron2, the warm-up goes on a straight line from f to the
      schedule's value at t = w.

    Raises:
        InputError: an unknown name or warm-up method, or SOLVER.STEPS that do not ascend.
    """
    return ScheduledLR(optimizer, learning_rate_factor(cfg))


def learning_rate_factor(cfg: CfgNode) -> Factor:
    """The factor on the learning rates as a function of the iteration; see `build_lr_scheduler`."""
    solver = cfg.SOLVER
    if solver.WARMUP_METHOD not in ("linear", "constant"):
        raise InputError(
            f"SOLVER.WARMUP_METHOD: {solver.WARMUP_METHOD!r} is not known; choose linear or constant"
        )
    max_iter = solver.MAX_ITER
    if max_iter <= 0:
        raise InputError(f"SOLVER.MAX_ITER: {max_iter} is not a positive number of iterations")
    if solver.LR_SCHEDULER_NAME == "WarmupPolyLR":
        return _warm_poly(cfg)
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        if list(solver.STEPS) != sorted(solver.STEPS):
            raise InputError(f"SOLVER.STEPS: {tuple(solver.STEPS)} do not ascend")
        return _after_warmup(cfg, lambda iteration: step_factor(iteration, solver.STEPS, solver.GAMMA))
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        return _after_warmup(cfg, lambda iteration: cosine_factor(iteration, max_iter))
    raise InputError(
        f"SOLVER.LR_SCHEDULER_NAME: {solver.LR_SCHEDULER_NAME!r} is not known; "
        "choose WarmupPolyLR, WarmupMultiStepLR or WarmupCosineLR"
    )


def _warm_poly(cfg: CfgNode) -> Factor:
    solver = cfg.SOLVER

    def factor(iteration: int) -> float:
        warm = iteration >= solver.WARMUP_ITERS
        ending = solver.POLY_LR_CONSTANT_ENDING if warm else 0.0
        poly = poly_factor(iteration, solver.MAX_ITER, solver.POLY_LR_POWER, ending)
        return poly * warmup_factor(
            iteration, solver.WARMUP_ITERS, solver.WARMUP_FACTOR, solver.WARMUP_METHOD
        )

    return factor


def _after_warmup(cfg: CfgNode, schedule: Factor) -> Factor:
    solver = cfg.SOLVER
    start = solver.WARMUP_FACTOR * schedule(0)

    def factor(iteration: int) -> float:
        if iteration >= solver.WARMUP_ITERS:
            return schedule(iteration)
        if solver.WARMUP_METHOD == "constant":
            return start
        share = iteration / solver.WARMUP_ITERS
        return start * (1.0 - share) + schedule(solver.WARMUP_ITERS) * share

    return factor
