"""Requirements of heads and training that every registered backbone meets."""

import copy

import pytest
import torch
from detectron2.modeling import build_backbone

from tests.modeling.modeling_helpers import make_config, shake

BACKBONES = [
    ("ResNetBackbone", "r18_half"),
    ("ResNetBackbone", "r50"),
    ("RegNetBackbone", "regnety_4gf"),
    ("SwinTransformer", "tiny"),
]


def build(name: str, variant: str, *overrides: object):
    torch.manual_seed(0)
    cfg = make_config(2, "MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.VARIANT", variant, *overrides)
    return build_backbone(cfg)


@pytest.mark.parametrize(("name", "variant"), BACKBONES)
def test_any_input_size_gives_maps_of_the_promised_channels_and_rounded_up_sizes(name, variant):
    backbone = build(name, variant).eval()
    shapes = backbone.output_shape()
    assert {name: shape.stride for name, shape in shapes.items()} == {
        "res2": 4,
        "res3": 8,
        "res4": 16,
        "res5": 32,
    }
    for height, width in [(1, 1), (5, 67), (32, 64), (33, 31)]:
        with torch.no_grad():
            features = backbone(torch.randn(1, 3, height, width))
        assert list(features) == list(shapes)
        for name, feature in features.items():
            stride = shapes[name].stride
            expected = (1, shapes[name].channels, -(-height // stride), -(-width // stride))
            assert feature.shape == expected
            assert feature.isfinite().all()


@pytest.mark.parametrize(("name", "variant"), BACKBONES)
def test_unused_stages_are_not_built(name, variant):
    full, shallow = (
        build(name, variant),
        build(name, variant, "MODEL.BACKBONE.OUT_FEATURES", ("res2", "res4")),
    )
    assert list(shallow.output_shape()) == ["res2", "res4"]
    shallow.load_state_dict({key: full.state_dict()[key] for key in shallow.state_dict()})
    image = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        expected, features = full.eval()(image), shallow.eval()(image)
    assert torch.equal(features["res4"], expected["res4"])
    sum(feature.sum() for feature in shallow.train()(image.repeat(2, 1, 1, 1)).values()).backward()
    assert all(parameter.grad is not None for parameter in shallow.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(("name", "variant"), BACKBONES)
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 5])
def test_frozen_stages_have_no_gradient_and_all_others_do(name, variant, freeze_at):
    rate = 0.0 if name == "RegNetBackbone" else 0.5
    backbone = build(
        name, variant, "MODEL.BACKBONE.FREEZE_AT", freeze_at, "MODEL.BACKBONE.DROP_PATH_RATE", rate
    )
    stem_and_stages = {
        "RegNetBackbone": ("stem.", "s1.", "s2.", "s3.", "s4."),
        "ResNetBackbone": ("stem.", "res2.", "res3.", "res4.", "res5."),
        "SwinTransformer": ("patch_embed.", "layers.0.", "layers.1.", "layers.2.", "layers.3."),
    }[name]
    frozen = stem_and_stages[:freeze_at]
    for key, parameter in backbone.named_parameters():
        assert parameter.requires_grad != key.startswith(frozen or "nothing")
    backbone.train()
    if name == "SwinTransformer" and freeze_at == 5:
        image = torch.randn(2, 3, 32, 32)
        assert torch.equal(backbone(image)["res5"], backbone(image)["res5"])  # no stochastic depth


@pytest.mark.parametrize(("name", "variant"), BACKBONES)
def test_activation_checkpointing_leaves_outputs_and_gradients_unchanged(name, variant):
    backbone = shake(build(name, variant)).train()
    checkpointing = copy.deepcopy(backbone)
    checkpointing.activation_checkpointing = True
    image = torch.randn(1, 3, 64, 32)
    gradients = []
    for module in (backbone, checkpointing):
        features = module(image)
        sum((feature * feature).mean() for feature in features.values()).backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
    for expected, actual in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["ResNetBackbone", "SwinTransformer"])
def test_unknown_variant_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=rf"VARIANT 'r5O' is not a {name}; choose one of .*(r50|tiny)"):
        build(name, "r5O")


def test_swin_refuses_another_output_stride():
    with pytest.raises(ValueError, match="OUTPUT_STRIDE 8: a SwinTransformer has no dilation; use 32"):
        build("SwinTransformer", "tiny", "MODEL.BACKBONE.OUTPUT_STRIDE", 8)
