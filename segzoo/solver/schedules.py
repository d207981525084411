"""Learning-rate schedules as closed-form functions of the iteration.

t is the iteration (0 for the first), T = SOLVER.MAX_ITER, w = SOLVER.WARMUP_ITERS, f = SOLVER.WARMUP_FACTOR.
There is no other state, so a resumed run needs only t and follows its own config exactly.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

import torch
from detectron2.config import CfgNode

from segzoo.utils.errors import InputError
from segzoo.utils.registries import registered

from .registry import LR_SCHEDULER_REGISTRY

#: Maps the iteration to the factor of learning rates.
Factor = Callable[[int], float]
#: One factor for all parameters, or {name prefix: factor}, with "" for the rest.
Schedule = Factor | Mapping[str, Factor]


def warmup_factor(iteration: int, iterations: int, factor: float, method: str = "linear") -> float:
    """Return `factor`, linearly rising to 1 at t = w or constant until then (Goyal et al. 2017, sec. 2.2)."""
    if iteration >= iterations:
        return 1.0
    if method == "constant":
        return factor
    share = iteration / iterations
    return factor * (1.0 - share) + share


def poly_factor(iteration: int, max_iter: int, power: float, constant_ending: float = 0.0) -> float:
    """Return (1 - t/T)^power, at least `constant_ending` (DeepLab, Chen et al. 2017)."""
    return max((1.0 - min(iteration, max_iter) / max_iter) ** power, constant_ending)


def step_factor(iteration: int, steps: Sequence[int], gamma: float) -> float:
    """Return gamma^k after k of the ascending `steps` have been reached."""
    return gamma ** bisect_right(steps, iteration)


def cosine_factor(iteration: int, max_iter: int) -> float:
    """Return (1 + cos(pi t/T)) / 2, a half cosine from 1 to 0 (Loshchilov and Hutter 2017, no restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * min(iteration, max_iter) / max_iter))


class ScheduledLR(torch.optim.lr_scheduler.LRScheduler):
    """Scheduler that sets each group's learning rate to its configured value times the factor at t.

    `step()` advances to the next iteration. The state is only t; loading it also sets the learning rates from
    the configured values, so that a changed SOLVER.BASE_LR takes effect on resuming.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule):
        """
        Args:
            optimizer: made by `build_optimizer`.
            schedule: one factor for all groups, or one for each value of their "schedule" (a name prefix).

        Raises:
            InputError: a prefix has no group, so its factor would have no effect.
        """
        self.factors = schedule if isinstance(schedule, Mapping) else {"": schedule}
        found = {group.get("schedule", "") for group in optimizer.param_groups}
        for prefix in filter(None, self.factors):
            if prefix not in found:
                raise InputError(
                    f"SOLVER.LR_SCHEDULER_NAME: the schedule's factor for {prefix!r} has no effect: no group "
                    f'of the optimizer has "schedule": {prefix!r}; correct the prefix if no trainable '
                    "parameter's name begins with it, and in your own build_optimizer make the groups with "
                    f"segzoo.solver.parameter_groups(..., schedules=[{prefix!r}])"
                )
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        factors = {prefix: factor(self.last_epoch) for prefix, factor in self.factors.items()}
        return [
            base_lr * factors[group.get("schedule", "")]
            for base_lr, group in zip(self.base_lrs, self.optimizer.param_groups, strict=True)
        ]

    def state_dict(self) -> dict:
        return {"iteration": self.last_epoch}

    def load_state_dict(self, state_dict: dict) -> None:
        # Detectron2's schedulers store it as "last_epoch".
        self.last_epoch = int(state_dict.get("iteration", state_dict.get("last_epoch", 0)))
        for group, lr in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = lr
        self._last_lr = self.get_lr()


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> ScheduledLR:
    """Build the schedule of SOLVER.LR_SCHEDULER_NAME.

    Raises:
        InputError: see `learning_rate_factor`.
    """
    return ScheduledLR(optimizer, learning_rate_factor(cfg))


def find_schedule(cfg: CfgNode) -> Callable[[CfgNode], Schedule]:
    """Return the registered function of SOLVER.LR_SCHEDULER_NAME.

    Raises:
        InputError: no schedule is registered under that name.
    """
    return registered(LR_SCHEDULER_REGISTRY, "SOLVER.LR_SCHEDULER_NAME", cfg.SOLVER.LR_SCHEDULER_NAME)


def learning_rate_factor(cfg: CfgNode) -> Schedule:
    """Return the learning-rate factor as a function of the iteration, or several by name prefix.

    Raises:
        InputError: the name or warm-up method is unknown, there are no iterations, or SOLVER.STEPS do not
            ascend.
    """
    solver = cfg.SOLVER
    build = find_schedule(cfg)
    if solver.WARMUP_METHOD not in ("linear", "constant"):
        raise InputError(
            f"SOLVER.WARMUP_METHOD: {solver.WARMUP_METHOD!r} is not known; choose linear or constant"
        )
    if solver.MAX_ITER <= 0:
        raise InputError(f"SOLVER.MAX_ITER: {solver.MAX_ITER} is not a positive number of iterations")
    schedule = build(cfg)
    if isinstance(schedule, Mapping) and "" not in schedule:
        raise InputError(
            f"SOLVER.LR_SCHEDULER_NAME {solver.LR_SCHEDULER_NAME!r}: it has factors for "
            f'{", ".join(schedule)} only; add one for all other parameters under the prefix ""'
        )
    return schedule


@LR_SCHEDULER_REGISTRY.register(name="WarmupPolyLR")
def warmup_poly(cfg: CfgNode) -> Factor:
    """Return the factor warm-up(t) x poly(t), with the constant ending only after the warm-up."""
    solver = cfg.SOLVER

    def factor(iteration: int) -> float:
        warm = iteration >= solver.WARMUP_ITERS
        ending = solver.POLY_LR_CONSTANT_ENDING if warm else 0.0
        poly = poly_factor(iteration, solver.MAX_ITER, solver.POLY_LR_POWER, ending)
        return poly * warmup_factor(
            iteration, solver.WARMUP_ITERS, solver.WARMUP_FACTOR, solver.WARMUP_METHOD
        )

    return factor


@LR_SCHEDULER_REGISTRY.register(name="WarmupMultiStepLR")
def warmup_multi_step(cfg: CfgNode) -> Factor:
    """Return Detectron2's factor: a linear warm-up, then GAMMA^k after k of the STEPS."""
    solver = cfg.SOLVER
    if list(solver.STEPS) != sorted(solver.STEPS):
        raise InputError(f"SOLVER.STEPS: {tuple(solver.STEPS)} do not ascend")
    return after_warmup(cfg, lambda iteration: step_factor(iteration, solver.STEPS, solver.GAMMA))


@LR_SCHEDULER_REGISTRY.register(name="WarmupCosineLR")
def warmup_cosine(cfg: CfgNode) -> Factor:
    """Return Detectron2's factor: a linear warm-up, then a half cosine from 1 to 0."""
    return after_warmup(cfg, lambda iteration: cosine_factor(iteration, cfg.SOLVER.MAX_ITER))


def after_warmup(cfg: CfgNode, schedule: Factor) -> Factor:
    """Return a factor that rises linearly from f x schedule(0) to schedule(w), then follows the schedule."""
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
