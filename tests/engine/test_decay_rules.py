"""Learning rate and weight decay of each parameter, recipe by recipe, as the released code assigns them.

Each rule is restated here over the modules and names of the model that a configuration of the zoo builds on
the meta device; numbers are copied from the published recipes.
"""

from collections.abc import Callable

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from segzoo.config.defaults import default_config
from segzoo.model_zoo import load_config
from segzoo.solver import build_optimizer, load_optimizer_state, parameter_groups
from segzoo.utils.errors import InputError

Settings = dict[str, tuple[float, float]]


def built(name: str) -> tuple[nn.Module, Settings]:
    """Return a configuration's model, and (learning rate, decay) of its parameters in segzoo's optimizer."""
    cfg = load_config(name, ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        model = build_model(cfg)
    groups = build_optimizer(cfg, model).param_groups
    return model, {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}


def parameters(model: nn.Module):
    """Yield (name of the module, module, name of the parameter in it) of all trainable parameters."""
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                yield module_name, module, name


def everything_decays(lr: float, decay: float, factors: dict[str, float]) -> Callable:
    """Return the rule of SGD recipes: learning rates differ by part of the model, and everything decays."""

    def rule(model: nn.Module) -> Settings:
        names = [f"{module}.{name}" for module, _, name in parameters(model)]
        return {name: (lr * factors[name.split(".")[0]], decay) for name in names}

    return rule


# MaskFormer's and Mask2Former's train_net.py: by the type of the module.
NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LocalResponseNorm),
)


def by_kind(lr: float, decay: float, backbone_factor: float) -> Callable:
    def rule(model: nn.Module) -> Settings:
        found = {}
        for module_name, module, name in parameters(model):
            table = "relative_position_bias_table" in name or "absolute_pos_embed" in name
            exempt = table or isinstance(module, (*NORMS, nn.Embedding))
            factor = backbone_factor if "backbone" in module_name else 1.0
            found[f"{module_name}.{name}"] = (lr * factor, 0.0 if exempt else decay)
        return found

    return rule


def by_name(lr: float, decay: float, keys: dict[str, tuple[float, float]]) -> Callable:
    """Return the rule of mmcv's `custom_keys`: factors of rate and decay by the longest matching key.

    Names are mmsegmentation's: the heads are `decode_head` and `auxiliary_head`, their batch norms `bn`.
    """

    def official(name: str) -> str:
        if name.startswith("backbone."):
            return name
        return name.replace("sem_seg_head.", "decode_head.").replace(".norm.", ".bn.")

    def rule(model: nn.Module) -> Settings:
        found = {}
        for module_name, _, own in parameters(model):
            name = f"{module_name}.{own}"
            matching = [key for key in sorted(keys) if key in official(name)]
            lr_factor, decay_factor = keys[max(matching, key=len)] if matching else (1.0, 1.0)
            found[name] = (lr * lr_factor, decay * decay_factor)
        return found

    return rule


HEADS_TENFOLD = {"backbone": 1.0, "neck": 10.0, "sem_seg_head": 10.0, "auxiliary_head": 10.0}
ALIKE = dict.fromkeys(HEADS_TENFOLD, 1.0)
SEMSEG = everything_decays(0.01, 1e-4, HEADS_TENFOLD)
SEGFORMER = by_name(6e-5, 0.01, {"pos_block": (1.0, 0.0), "norm": (1.0, 0.0), "head": (10.0, 1.0)})
UPERNET_KEYS = ("absolute_pos_embed", "relative_position_bias_table", "norm")
UPERNET = by_name(6e-5, 0.01, dict.fromkeys(UPERNET_KEYS, (1.0, 0.0)))
MASKFORMER = by_kind(1e-4, 1e-4, 0.1)
MASKFORMER_SWIN = by_kind(6e-5, 0.01, 1.0)
MASK2FORMER = by_kind(1e-4, 0.05, 0.1)

RULES = {
    "semantic/ade20k/pspnet_r50_v1s_100ep": SEMSEG,
    "semantic/ade20k/psanet_r50_v1s_100ep": SEMSEG,
    # pytorch-cv: 0.001 / 8 (Cityscapes 0.01 / 8) for each image of the batch.
    "semantic/voc_2012/fcn_jpu_r101_v1s": everything_decays(0.008, 1e-4, HEADS_TENFOLD),
    "semantic/voc_2012/ccnet_jpu_r101_v1s": everything_decays(0.004, 1e-4, HEADS_TENFOLD),
    "semantic/cityscapes/danet_jpu_r101_v1s": everything_decays(0.04, 1e-4, HEADS_TENFOLD),
    "semantic/cityscapes/bisenet_r18_v1b": everything_decays(0.08, 1e-4, HEADS_TENFOLD),
    # GluonCV, per mean gradient: 0.01 * 4 / 16 with a decay of 0.0001 * 16 / 4; on Cityscapes 8 GPUs.
    "semantic/ade20k/fcn_r50_v1s_120ep": everything_decays(0.0025, 4e-4, HEADS_TENFOLD),
    "semantic/cityscapes/pspnet_r101_v1s_240ep": everything_decays(0.005, 2e-4, HEADS_TENFOLD),
    "semantic/cityscapes/danet_r50_v1s_240ep": everything_decays(0.005, 2e-4, ALIKE),
    "semantic/voc_2012/deeplabv3_r101_v1s_coco": everything_decays(0.00025, 4e-4, HEADS_TENFOLD),
    "semantic/coco_21/deeplabv3_r50": everything_decays(0.02, 1e-4, {**ALIKE, "auxiliary_head": 10.0}),
    "semantic/cityscapes/deeplabv3plus_wrn38": everything_decays(0.001, 1e-4, ALIKE),
    "semantic/ade20k/segformer_mit_b0": SEGFORMER,
    "semantic/cityscapes/segformer_mit_b1": SEGFORMER,
    "semantic/ade20k/upernet_swin_tiny": UPERNET,
    "semantic/ade20k/upernet_cswin_tiny": UPERNET,
    "semantic/ade20k/upernet_volo_d1": UPERNET,
    "semantic/ade20k/per_pixel_baseline_r50": MASKFORMER,
    "semantic/ade20k/per_pixel_baseline_plus_r50": MASKFORMER,
    "semantic/ade20k/maskformer_r50": MASKFORMER,
    "panoptic/coco/maskformer_r50": MASKFORMER,
    "semantic/ade20k/maskformer_swin_tiny": MASKFORMER_SWIN,
    "panoptic/coco/mask2former_r50": MASK2FORMER,
    "semantic/cityscapes/mask2former_r50": MASK2FORMER,  # with batch norms that train
    "semantic/ade20k/mask2former_swin_tiny": MASK2FORMER,
    "entity/coco/mask2former_swin_tiny": MASK2FORMER,
}


@pytest.mark.parametrize("name", RULES)
def test_each_parameter_has_the_settings_of_the_released_rule(name):
    model, found = built(name)
    expected = RULES[name](model)
    assert set(found) == set(expected)
    different = {
        key: (found[key], settings)
        for key, settings in expected.items()
        if found[key] != pytest.approx(settings)
    }
    assert different == {}


@pytest.mark.parametrize(
    ("name", "parameter", "settings"),
    [
        # A bare parameter of its module; the decoder's is an nn.Embedding.
        (
            "panoptic/coco/mask2former_r50",
            "sem_seg_head.pixel_decoder.transformer.level_embed",
            (1e-4, 0.05),
        ),
        ("panoptic/coco/mask2former_r50", "sem_seg_head.predictor.level_embed.weight", (1e-4, 0.0)),
        # A layer norm without "norm" in its name.
        ("semantic/ade20k/upernet_cswin_tiny", "backbone.stage1_conv_embed.2.weight", (6e-5, 0.01)),
        ("semantic/ade20k/upernet_cswin_tiny", "backbone.merge1.norm.weight", (6e-5, 0.0)),
        ("semantic/ade20k/upernet_volo_d1", "backbone.pos_embed", (6e-5, 0.01)),
        ("semantic/ade20k/segformer_mit_b0", "backbone.block1.0.norm1.bias", (6e-5, 0.0)),
        ("semantic/ade20k/segformer_mit_b0", "backbone.block1.0.attn.q.bias", (6e-5, 0.01)),
    ],
)
def test_parameters_whose_module_type_and_name_disagree(name, parameter, settings):
    assert built(name)[1][parameter] == pytest.approx(settings)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"embed": nn.LayerNorm(4), "norm": nn.LayerNorm(4)})
        self.head = nn.Linear(4, 4)


def toy_settings(**options) -> Settings:
    groups = parameter_groups(Toy(), base_lr=1.0, weight_decay=0.5, weight_decay_norm=0.0, **options)
    return {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}


def test_the_first_matching_expression_decides_and_the_module_type_for_the_rest():
    found = toy_settings(weight_decay_by_name=[("norm", 0.25), (r"^backbone\.embed\.weight$", None)])
    assert {name: decay for name, (_, decay) in found.items()} == {
        "backbone.embed.weight": 0.5,
        "backbone.embed.bias": 0.0,
        "backbone.norm.weight": 0.25,
        "backbone.norm.bias": 0.25,
        "head.weight": 0.5,
        "head.bias": 0.5,
    }
    by_name_alone = toy_settings(weight_decay_by_name=[("norm", 0.0), ("", None)])
    assert {name for name, (_, decay) in by_name_alone.items() if decay == 0.0} == {
        "backbone.norm.weight",
        "backbone.norm.bias",
    }


def test_an_expression_that_matches_nothing_is_reported(caplog):
    toy_settings(weight_decay_by_name=[("nrom", 0.0)])
    assert "WEIGHT_DECAY_BY_NAME: 'nrom' applies to no trainable parameter" in caplog.text


@pytest.mark.parametrize("key", ["WEIGHT_DECAY_NORM", "WEIGHT_DECAY_HEAD_NORM", "WEIGHT_DECAY_BIAS"])
def test_a_decay_by_module_type_where_names_decide_is_refused_with_its_remedy(key):
    name = "semantic/ade20k/segformer_mit_b0"
    with pytest.raises(InputError, match=rf"SOLVER\.{key} 0.5 has no effect .*BY_NAME \"\[\]\""):
        build_optimizer(load_config(name, [f"SOLVER.{key}", 0.5]), Toy())
    cfg = load_config(name, [f"SOLVER.{key}", 0.5, "SOLVER.WEIGHT_DECAY_BY_NAME", "[]"])
    groups = build_optimizer(cfg, Toy()).param_groups
    decay = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert (decay["backbone.norm.weight"] == 0.5) == (key == "WEIGHT_DECAY_NORM")
    assert (decay["head.bias"] == 0.5) == (key == "WEIGHT_DECAY_BIAS")
    assert decay["head.weight"] == 0.01


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("WEIGHT_DECAY_BY_NAME", [["(", 0.0]]),
        ("WEIGHT_DECAY_BY_NAME", ["norm", 0.0]),
        ("WEIGHT_DECAY_BY_NAME", [["norm", -1.0]]),
        ("WEIGHT_DECAY_BY_NAME", [["norm", "0"]]),
        ("WEIGHT_DECAY_BY_NAME", [["norm"]]),
        ("WEIGHT_DECAY_NORM", -0.1),
    ],
)
def test_impossible_values_are_named_with_their_key(key, value):
    with pytest.raises(InputError, match=rf"SOLVER\.{key} .*: expected (pairs|None or a finite)"):
        load_config("semantic/ade20k/maskformer_r50", [f"SOLVER.{key}", value])


def test_a_training_under_the_old_rules_resumes_with_its_moments():
    """level_embed moves to another group and index; its moments follow its name."""

    def optimizer(model: nn.Module, **options):
        cfg = default_config()
        cfg.SOLVER.merge_from_list([item for pair in options.items() for item in pair])
        return build_optimizer(cfg, model)

    def toy():
        torch.manual_seed(0)
        model = Toy()
        model.level_embed = nn.Parameter(torch.randn(3, 4))
        return model

    old_model = toy()
    old = optimizer(old_model, WEIGHT_DECAY_BY_NAME=[["level_embed", 0.0]])
    for parameter in old_model.parameters():
        parameter.grad = torch.randn_like(parameter)
    old.step()
    new_model = toy()
    new = optimizer(new_model)
    assert len(new.param_groups) == len(old.param_groups)
    load_optimizer_state(new, old.state_dict())
    decay = {name: group["weight_decay"] for group in new.param_groups for name in group["names"]}
    assert decay["level_embed"] == decay["head.weight"] == 1e-4
    before = dict(old_model.named_parameters())
    for name, parameter in new_model.named_parameters():
        assert torch.equal(new.state[parameter]["exp_avg"], old.state[before[name]]["exp_avg"]), name


@pytest.mark.parametrize(
    ("name", "gpus", "head_factor"),
    [
        ("semantic/ade20k/fcn_r50_v1s_120ep", 4, 10.0),
        ("semantic/cityscapes/pspnet_r101_v1s_240ep", 8, 10.0),
        ("semantic/cityscapes/danet_r50_v1s_240ep", 8, 1.0),
    ],
)
def test_steps_of_gluoncvs_recipe_are_those_of_its_trainer(name, gpus, head_factor):
    """MXNet's update, with --lr 0.01, --weight-decay 1e-4 and a batch of 16."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"backbone": nn.Linear(3, 3), "sem_seg_head": nn.Linear(3, 3)}).double()
    weights = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    velocity = {key: torch.zeros_like(weight) for key, weight in weights.items()}
    optimizer = build_optimizer(load_config(name, ["MODEL.DEVICE", "cpu"]), model)
    for _ in range(3):
        for key, parameter in model.named_parameters():
            gradients = torch.randn(gpus, *parameter.shape, dtype=torch.float64)  # one mean of each GPU
            parameter.grad = gradients.mean(dim=0)
            lr = 0.01 * (head_factor if key.startswith("sem_seg_head") else 1.0)
            step = gradients.sum(dim=0) / 16 + 1e-4 * weights[key]
            velocity[key] = 0.9 * velocity[key] - lr * step
            weights[key] += velocity[key]
        optimizer.step()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), weights[key], rtol=1e-9, atol=1e-12)
