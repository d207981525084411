"""Learning-rate factors by depth equal BEiT's, SimMIM's and timm's; expressions override prefixes."""

import re

import pytest
import timm
import torch
from detectron2.modeling import build_backbone
from timm.optim import param_groups_layer_decay
from torch import nn

from segzoo.config.load import new_config, read_config
from segzoo.modeling.backbones.swin import VARIANTS as SWIN
from segzoo.solver import build_optimizer
from segzoo.utils.errors import InputError

DECAY = 0.5
TIMM_OUTPUTS = {"vit_tiny_patch16_224": ("res4",), "convnext_atto": ("res2", "res3", "res4", "res5")}


class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(2, 2)


def build(name, variant, **changes):
    cfg = new_config()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.VARIANT = name, variant
    cfg.MODEL.BACKBONE.OUT_FEATURES = TIMM_OUTPUTS.get(variant, ("res2", "res3", "res4", "res5"))
    cfg.MODEL.DEVICE, cfg.SOLVER.LAYER_DECAY, cfg.SOLVER.BASE_LR = "meta", DECAY, 1.0
    for key, value in changes.items():
        cfg.SOLVER[key] = value
    with torch.device("meta"):
        return cfg, Model(build_backbone(cfg))


def rates(cfg, model):
    groups = build_optimizer(cfg, model).param_groups
    return {name: group["lr"] for group in groups for name in group["names"]}


def simmim_depth(name, depths):
    """Return the depth as the paper's fine-tuning code numbers the layers of a Swin Transformer."""
    if name.startswith("patch_embed"):
        return 0
    if match := re.match(r"layers\.(\d)\.blocks\.(\d+)", name):
        return sum(depths[: int(match[1])]) + int(match[2]) + 1
    if match := re.match(r"layers\.(\d)\.downsample", name):
        return sum(depths[: int(match[1]) + 1])
    return sum(depths) + 1


def test_swin_decays_as_in_simmim():
    found = rates(*build("SwinTransformer", "tiny"))
    depths = SWIN["tiny"].depths
    last = sum(depths) + 1
    assert len(found) > 150
    for name, rate in found.items():
        expected = 1.0
        if name.startswith("backbone."):
            expected = DECAY ** (last - simmim_depth(name.removeprefix("backbone."), depths))
        assert rate == expected, name


@pytest.mark.parametrize("variant", TIMM_OUTPUTS)
def test_models_of_timm_decay_as_timm_does(variant):
    found = rates(*build("TimmBackbone", variant))
    with torch.device("meta"):
        peer = timm.create_model(variant)
    groups = param_groups_layer_decay(peer, layer_decay=DECAY, verbose=False)
    names = {id(parameter): name for name, parameter in peer.named_parameters()}
    expected = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    compared = 0
    for name, rate in found.items():
        if name.startswith("backbone."):
            compared += 1
            assert rate == pytest.approx(expected[name.removeprefix("backbone.network.")]), name
    assert compared > 100
    assert found["head.weight"] == 1.0


def test_a_vision_transformer_decays_as_in_beit():
    found = rates(*build("TimmBackbone", "vit_tiny_patch16_224"))
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight"):
        assert found[f"backbone.network.{name}"] == DECAY**13
    for block in range(12):
        assert found[f"backbone.network.blocks.{block}.mlp.fc1.weight"] == DECAY ** (12 - block)


# The first parameter, one of the last layer, and the number of layers.
ENDS = [
    ("MixTransformer", "b0", "patch_embed1.proj.weight", "norm4.weight", 1 + 8),
    ("PyramidVisionTransformerV2", "b2", "patch_embed1.proj.weight", "block4.2.mlp.fc1.bias", 1 + 16),
    ("CSWinTransformer", "tiny", "stage1_conv_embed.0.weight", "stage4.0.qkv.weight", 1 + 1 + 2 + 21 + 1),
    ("VOLO", "d1", "patch_embed.proj.weight", "network.4.1.mlp.fc1.weight", 1 + 4 + 4 + 8 + 2),
    ("RegNetBackbone", "regnetx_4gf", "stem.conv.weight", "s4.b2.f.c.weight", 1 + 23),
    ("ResNetBackbone", "r18", "stem.conv1.weight", "res5.1.conv2.weight", 1 + 8),
    ("WideResNetBackbone", "wrn38", "mod1.weight", "mod7.block1.conv3.weight", 1 + 17),
]


@pytest.mark.parametrize(("name", "variant", "first", "last", "count"), ENDS, ids=[row[0] for row in ENDS])
def test_every_layer_of_a_backbone_has_a_depth(name, variant, first, last, count):
    _, model = build(name, variant)
    depths, total = model.backbone.layer_depths()
    assert depths.keys() == {name for name, _ in model.backbone.named_parameters()}
    assert (depths[first], depths[last], total) == (0, count - 1, count)
    assert set(depths.values()) - {total} == set(range(count))
    # Blocks are registered in the order of use.
    blocks = [depth for key, depth in depths.items() if re.search(r"\d+\.\d+\.|block\d+\.", key)]
    assert blocks == sorted(blocks)


def test_a_model_without_layer_depths_is_refused():
    cfg = new_config()
    cfg.SOLVER.LAYER_DECAY = 0.8
    with pytest.raises(
        InputError, match=r"SOLVER.LAYER_DECAY 0.8: no module of the model has layer_depths()"
    ):
        build_optimizer(cfg, Model(nn.Linear(2, 2)))
    cfg.SOLVER.LAYER_DECAY = 1.0
    build_optimizer(cfg, Model(nn.Linear(2, 2)))


def test_expressions_override_prefixes_and_depth_multiplies_both():
    changes = {
        "BACKBONE_MULTIPLIER": 0.1,
        "LR_MULTIPLIERS": [["head", 10.0]],
        "LR_MULTIPLIERS_BY_NAME": [[r"conv\d", 3.0], ["head.*bias|stem", 5.0]],
    }
    found = rates(*build("ResNetBackbone", "r18", **changes))
    assert found["head.weight"] == 10.0
    assert found["head.bias"] == 5.0
    # The first matching expression decides.
    assert found["backbone.stem.conv1.weight"] == 3.0 * DECAY**9
    assert found["backbone.res3.0.shortcut.weight"] == pytest.approx(0.1 * DECAY**6)
    with pytest.raises(InputError, match="'sampling' applies to no trainable parameter"):
        rates(*build("ResNetBackbone", "r18", LR_MULTIPLIERS_BY_NAME=[["sampling", 0.1]]))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("LR_MULTIPLIERS_BY_NAME", "[['(', 0.1]]", "expected pairs of a regular expression and a factor"),
        ("LR_MULTIPLIERS_BY_NAME", "[['a', None]]", "expected pairs of a regular expression and a factor"),
        ("LAYER_DECAY", "0", "SOLVER.LAYER_DECAY 0.0: expected a number above 0 and at most 1"),
    ],
)
def test_impossible_factors_are_refused_before_anything_is_built(key, value, message):
    with pytest.raises(InputError, match=message):
        read_config(None, [f"SOLVER.{key}", value])
