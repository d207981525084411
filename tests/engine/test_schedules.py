"""Learning rates by iteration equal the closed formulas, Detectron2's schedules, and survive a resume."""

import math

import pytest
import torch
from detectron2.projects.deeplab.lr_scheduler import WarmupPolyLR
from detectron2.solver import build_lr_scheduler as build_detectron2_scheduler

from segzoo.config.defaults import default_config
from segzoo.solver import ScheduledLR, build_lr_scheduler, parameter_groups
from segzoo.utils.errors import InputError


def make_cfg(**solver):
    cfg = default_config()
    for key, value in {"MAX_ITER": 20, "BASE_LR": 0.5, **solver}.items():
        cfg.SOLVER[key] = value
    return cfg


def make_optimizer(*learning_rates):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in learning_rates]
    return torch.optim.SGD(groups, lr=0.0)


def rates(scheduler, optimizer, count=20):
    found = []
    for _ in range(count):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return torch.tensor(found, dtype=torch.float64)


def rates_of(cfg):
    optimizer = make_optimizer(0.5, 0.05)
    found = rates(build_lr_scheduler(cfg, optimizer), optimizer)
    torch.testing.assert_close(found[:, 1], found[:, 0] / 10)
    return found[:, 0]


def expect(found, formula):
    torch.testing.assert_close(found, torch.tensor([formula(t) for t in range(20)], dtype=torch.float64))


def test_poly_is_the_power_of_the_remaining_share():
    cfg = make_cfg(LR_SCHEDULER_NAME="WarmupPolyLR", POLY_LR_POWER=0.9)
    expect(rates_of(cfg), lambda t: 0.5 * (1 - t / 20) ** 0.9)


def test_warm_up_multiplies_poly_and_the_ending_is_constant():
    cfg = make_cfg(POLY_LR_CONSTANT_ENDING=0.3, WARMUP_ITERS=4, WARMUP_FACTOR=0.1)
    expect(
        rates_of(cfg),
        lambda t: (
            0.5 * (0.1 + 0.9 * t / 4) * (1 - t / 20) ** 0.9 if t < 4 else 0.5 * max((1 - t / 20) ** 0.9, 0.3)
        ),
    )


def test_step_multiplies_by_gamma_from_each_step_on():
    cfg = make_cfg(LR_SCHEDULER_NAME="WarmupMultiStepLR", STEPS=(5, 12), GAMMA=0.1)
    expect(rates_of(cfg), lambda t: 0.5 * (1 if t < 5 else 0.1 if t < 12 else 0.01))


def test_cosine_is_half_a_period():
    cfg = make_cfg(LR_SCHEDULER_NAME="WarmupCosineLR")
    expect(rates_of(cfg), lambda t: 0.25 * (1 + math.cos(math.pi * t / 20)))


@pytest.mark.parametrize("method", ["linear", "constant"])
@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR"])
def test_step_and_cosine_equal_detectron2(name, method):
    cfg = make_cfg(
        LR_SCHEDULER_NAME=name, STEPS=(9, 15), WARMUP_ITERS=6, WARMUP_FACTOR=0.05, WARMUP_METHOD=method
    )
    optimizer = make_optimizer(0.5)
    expected = rates(build_detectron2_scheduler(cfg, optimizer), optimizer)
    torch.testing.assert_close(rates_of(cfg), expected[:, 0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("ending", [0.0, 0.2])
def test_poly_equals_detectron2s_deeplab_project(ending):
    cfg = make_cfg(POLY_LR_CONSTANT_ENDING=ending, WARMUP_ITERS=5, WARMUP_FACTOR=1e-6)
    optimizer = make_optimizer(0.5)
    peer = WarmupPolyLR(optimizer, 20, warmup_factor=1e-6, warmup_iters=5, power=0.9, constant_ending=ending)
    torch.testing.assert_close(rates_of(cfg), rates(peer, optimizer)[:, 0])


def test_a_restored_schedule_continues_with_the_base_rate_configured_now():
    cfg = make_cfg(WARMUP_ITERS=4, WARMUP_FACTOR=0.1)
    optimizer = make_optimizer(0.5)
    whole = build_lr_scheduler(cfg, optimizer)
    expected = rates(whole, optimizer)
    optimizer = make_optimizer(0.5)
    stopped = build_lr_scheduler(cfg, optimizer)
    rates(stopped, optimizer, 7)
    optimizer = make_optimizer(1.0)
    resumed = build_lr_scheduler(cfg, optimizer)
    resumed.load_state_dict(stopped.state_dict())
    torch.testing.assert_close(rates(resumed, optimizer, 13), 2 * expected[7:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"LR_SCHEDULER_NAME": "WarmupPolyLr"},
            "'WarmupPolyLr' is unknown; did you mean WarmupPolyLR.; known",
        ),
        ({"WARMUP_METHOD": "exp"}, "SOLVER.WARMUP_METHOD: 'exp' is not known"),
        (
            {"LR_SCHEDULER_NAME": "WarmupMultiStepLR", "STEPS": (9, 3)},
            r"SOLVER.STEPS: \(9, 3\) do not ascend",
        ),
        ({"MAX_ITER": 0}, "SOLVER.MAX_ITER: 0 is not a positive number"),
    ],
)
def test_impossible_settings_are_input_errors(changes, message):
    with pytest.raises(InputError, match=message):
        build_lr_scheduler(make_cfg(**changes), make_optimizer(0.5))


def test_a_factor_for_a_prefix_without_a_group_is_an_input_error_and_the_remedy_works():
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(1, 1), "head": torch.nn.Linear(1, 1)})
    schedule = {"backbone": lambda iteration: 0.0, "": lambda iteration: 1.0}
    message = r"factor for 'backbone' has no effect: .*parameter_groups\(\.\.\., schedules=\['backbone'\]\)"
    with pytest.raises(InputError, match=message):
        ScheduledLR(torch.optim.SGD(model.parameters(), lr=0.5), schedule)
    groups = parameter_groups(model, base_lr=0.5, weight_decay=0.0, schedules=["backbone"])
    optimizer = torch.optim.SGD(groups, lr=0.5)
    ScheduledLR(optimizer, schedule)
    found = {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
    assert found == {"backbone.weight": 0, "backbone.bias": 0, "head.weight": 0.5, "head.bias": 0.5}
