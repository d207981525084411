"""Every trainable parameter is in exactly one group, with the settings that the rules assign."""

from types import SimpleNamespace

import pytest
import torch
import yaml
from detectron2.utils.events import EventStorage
from torch import nn

from segzoo.config.defaults import default_config
from segzoo.config.load import read_config
from segzoo.engine.hooks import LearningRateHook
from segzoo.solver import build_optimizer, load_optimizer_state, optimizer_name, parameter_groups
from segzoo.solver.parameter_groups import check_groups
from segzoo.utils.errors import InputError


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.backbone.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.head = nn.ModuleDict(
            {"project": nn.Linear(4, 4), "norm": nn.LayerNorm(4), "query_embed": nn.Embedding(5, 4)}
        )
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def settings(groups):
    return {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}


@pytest.fixture
def cfg():
    return default_config()


def test_settings_follow_the_type_of_module_and_the_name():
    groups = parameter_groups(
        Toy(),
        base_lr=1.0,
        weight_decay=0.5,
        weight_decay_norm=0.25,
        weight_decay_embed=0.125,
        weight_decay_bias=0.0625,
        bias_lr_factor=2.0,
        lr_multipliers={"backbone": 0.1, "head": 10.0, "head.norm": 100.0},
    )
    assert settings(groups) == {
        "backbone.0.weight": (0.1, 0.5),
        "backbone.0.bias": (0.2, 0.0625),
        "backbone.1.weight": (0.1, 0.25),
        "backbone.1.bias": (0.1, 0.25),
        "backbone.relative_position_bias_table": (0.1, 0.125),
        "head.project.weight": (10.0, 0.5),
        "head.project.bias": (20.0, 0.0625),
        "head.norm.weight": (100.0, 0.25),
        "head.norm.bias": (100.0, 0.25),
        "head.query_embed.weight": (10.0, 0.125),
    }


def test_a_bias_decays_like_a_weight_by_default():
    groups = parameter_groups(Toy(), base_lr=1.0, weight_decay=0.5, weight_decay_norm=0.0)
    assert settings(groups)["head.project.bias"] == (1.0, 0.5)


def test_equal_settings_share_one_group():
    groups = parameter_groups(Toy(), base_lr=1.0, weight_decay=0.5, weight_decay_norm=0.0)
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(1.0, 0.5), (1.0, 0.0)]


def test_a_shared_parameter_is_in_one_group():
    model = Toy()
    model.head["again"] = model.head["project"]
    groups = parameter_groups(model, base_lr=1.0, weight_decay=0.0)
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(members) == len(set(members)) == 10


def test_a_prefix_means_whole_name_parts():
    with pytest.raises(
        InputError, match=r"no trainable parameter.s name begins with back; .* backbone, head"
    ):
        parameter_groups(Toy(), base_lr=1.0, weight_decay=0.0, lr_multipliers={"back": 0.1})


@pytest.mark.parametrize(
    ("groups_of", "message"),
    [
        (lambda m: [{"params": [m.weight]}], "in no group: bias"),
        (lambda m: [{"params": [m.weight, m.bias]}, {"params": [m.bias]}], "in several groups: bias"),
        (
            lambda m: [{"params": [m.weight, m.bias, nn.Parameter(torch.zeros(1))]}],
            "not trainable in the model",
        ),
    ],
)
def test_wrong_groups_are_refused_with_the_names(groups_of, message):
    model = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match=message):
        check_groups(model, groups_of(model))


def test_the_config_names_the_optimizer_and_its_groups(cfg):
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.BACKBONE_MULTIPLIER = 1e-3, 0.05, 0.1
    cfg.SOLVER.LR_MULTIPLIERS = [["head", 10.0]]
    optimizer = build_optimizer(cfg, Toy())
    assert type(optimizer) is torch.optim.AdamW
    found = settings(optimizer.param_groups)
    assert found["backbone.0.weight"] == pytest.approx((1e-4, 0.05))
    assert found["backbone.1.weight"] == pytest.approx((1e-4, 0.0))
    assert found["head.query_embed.weight"] == pytest.approx((1e-2, 0.0))
    cfg.SOLVER.OPTIMIZER = "SGD"
    optimizer = build_optimizer(cfg, Toy())
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("given", ["on the command line", "in a file"])
def test_none_means_the_decay_of_all_others(given, tmp_path):
    file = tmp_path / "config.yaml"
    values = {"WEIGHT_DECAY": 0.5, "WEIGHT_DECAY_NORM": None, "WEIGHT_DECAY_EMBED": None}
    words = [str(word) for name, value in values.items() for word in (f"SOLVER.{name}", value)]
    if given == "in a file":
        file.write_text(yaml.safe_dump({"SOLVER": values}))
        words = []
    else:
        file.write_text("{}")
    cfg = read_config(file, words)
    found = settings(build_optimizer(cfg, Toy()).param_groups)
    assert {decay for _, decay in found.values()} == {0.5}
    # As a run saves its configuration.
    file.write_text(cfg.dump())
    assert read_config(file).SOLVER == cfg.SOLVER
    del values["WEIGHT_DECAY_NORM"]
    file.write_text(yaml.safe_dump({"SOLVER": values}))
    found = settings(build_optimizer(read_config(file), Toy()).param_groups)
    assert {name for name, (_, decay) in found.items() if decay == 0.0} == {
        *("backbone.1.weight", "backbone.1.bias", "head.norm.weight", "head.norm.bias")
    }


def test_unknown_optimizers_and_malformed_multipliers_are_input_errors(cfg):
    cfg.SOLVER.OPTIMIZER = "LAMB"
    with pytest.raises(InputError, match=r"SOLVER.OPTIMIZER 'LAMB' is unknown; known: AdamW, SGD"):
        build_optimizer(cfg, Toy())
    cfg.SOLVER.OPTIMIZER, cfg.SOLVER.LR_MULTIPLIERS = "SGD", ["head", 10.0]
    with pytest.raises(InputError, match=r"SOLVER.LR_MULTIPLIERS: 'head' is not a pair"):
        build_optimizer(cfg, Toy())


def test_optimizer_state_is_restored_by_name_under_different_groups_and_settings():
    def make(**settings):
        torch.manual_seed(0)
        model = Toy()
        return model, torch.optim.AdamW(parameter_groups(model, base_lr=0.1, weight_decay=0.5, **settings))

    model, optimizer = make(weight_decay_norm=0.0)
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    moments = {
        n: optimizer.state[p]["exp_avg"].clone() for n, p in model.named_parameters() if p in optimizer.state
    }
    state = optimizer.state_dict()

    other_model, other = make(weight_decay_norm=0.5, lr_multipliers={"head": 3.0})
    load_optimizer_state(other, state)
    assert settings(other.param_groups)["head.norm.weight"] == pytest.approx((0.3, 0.5))
    for name, parameter in other_model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(other.state[parameter]["exp_avg"], moments[name], rtol=0, atol=0)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    "kinds", [(torch.optim.SGD, torch.optim.AdamW), (torch.optim.AdamW, torch.optim.SGD)]
)
def test_the_state_of_another_optimizer_is_not_restored(kinds, named, caplog):
    def stepped(kind):
        model = Toy()
        groups = parameter_groups(model, base_lr=0.1, weight_decay=0.0) if named else model.parameters()
        optimizer = kind(groups, lr=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
        return model, optimizer

    def step(model, optimizer):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()

    old, new = stepped(kinds[0]), stepped(kinds[1])
    step(*old)
    load_optimizer_state(new[1], old[1].state_dict())
    assert "from another optimizer than" in caplog.text
    assert not new[1].state
    step(*new)  # an update with a fresh state


def test_moments_of_two_optimizers_with_the_same_options_are_distinguished_by_name(caplog):
    """Neither SGD nor Adagrad has betas, and neither can use the state of the other."""
    model = Toy()
    groups = parameter_groups(model, base_lr=0.1, weight_decay=0.0)
    old, new = torch.optim.Adagrad(groups), torch.optim.SGD(groups, momentum=0.9)
    state = old.state_dict()
    assert state["state"]
    load_optimizer_state(new, state, optimizer_name(old))
    assert "from another optimizer than SGD" in caplog.text
    assert not new.state


def test_rates_of_every_layer_are_recorded_as_the_lowest_and_the_highest():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(20)]
    optimizer = torch.optim.SGD([{"params": [p], "lr": 0.9**n} for n, p in enumerate(parameters)], lr=1.0)
    hook = LearningRateHook(1.0)
    hook.trainer = SimpleNamespace(
        optimizer=optimizer, storage=EventStorage(), scheduler=SimpleNamespace(step=lambda: None)
    )
    hook.before_train()
    hook.after_step()
    recorded = {name for name in hook.trainer.storage.latest() if name.startswith("lr_x")}
    assert recorded == {"lr_x1", f"lr_x{0.9**19:.4g}"}


@pytest.mark.parametrize("name", ["semantic/ade20k/maskformer_r50", "panoptic/coco/maskformer_swin_tiny"])
def test_the_recipes_groups_hold_every_parameter_of_the_model_once(name):
    from detectron2.modeling import build_model

    from segzoo.model_zoo import load_config

    cfg = load_config(name, ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    groups = build_optimizer(cfg, model).param_groups
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    assert len(groups) <= 4
    found = settings(groups)
    base, decay = cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY
    assert found["sem_seg_head.predictor.query_embed.weight"] == (base, 0.0)
    assert found["sem_seg_head.predictor.class_embed.bias"] == (base, decay)
    if "swin" in name:
        table = "backbone.layers.0.blocks.0.attn.relative_position_bias_table"
        assert found[table] == (base, 0.0)
        assert found["backbone.norm0.bias"] == (base, 0.0)
    else:
        assert found["backbone.res3.0.conv1.weight"] == pytest.approx((base / 10, decay))
