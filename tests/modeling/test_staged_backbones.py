"""Requirements of heads and training on the hierarchical transformers, each in a small variant."""

import itertools

import pytest
import torch
from detectron2.modeling import build_backbone
from torch import nn

from segzoo.modeling.backbones.cswin import CSWinTransformer, CSWinVariant
from segzoo.modeling.backbones.mit import MixTransformer, PyramidVariant, PyramidVisionTransformerV2
from segzoo.modeling.backbones.swin import SwinTransformer, SwinVariant
from segzoo.modeling.backbones.volo import VOLO, VOLOVariant
from tests.modeling.modeling_helpers import make_config, shake

PYRAMID = PyramidVariant((8, 16, 40, 64), (1, 2, 1, 1))
SMALL = {
    MixTransformer: PYRAMID,
    PyramidVisionTransformerV2: PyramidVariant(PYRAMID.channels, PYRAMID.depths, mlp_ratios=(8, 8, 4, 4)),
    CSWinTransformer: CSWinVariant(16, (1, 2, 1, 1), (2, 4, 8, 16)),
    VOLO: VOLOVariant((1, 2, 1, 1), (16, 32), (2, 4), stem_dim=8),
    SwinTransformer: SwinVariant(8, (1, 2, 1, 1), (1, 2, 2, 4), 4),
}
# Modules that are frozen together: the stem, then the stages of res2 to res5.
PYRAMID_PARTS = (
    ("patch_embed1.",),
    ("block1.", "norm1."),
    ("patch_embed2.", "block2.", "norm2."),
    ("patch_embed3.", "block3.", "norm3."),
    ("patch_embed4.", "block4.", "norm4."),
)
PARTS = {
    MixTransformer: PYRAMID_PARTS,
    PyramidVisionTransformerV2: PYRAMID_PARTS,
    CSWinTransformer: (
        ("stage1_conv_embed.",),
        ("stage1.",),
        ("merge1.", "stage2."),
        ("merge2.", "stage3."),
        ("merge3.", "stage4."),
    ),
    VOLO: (
        ("patch_embed.",),
        ("network.0.",),
        ("network.1.", "pos_embed", "network.2."),
        ("network.3.",),
        ("network.4.",),
    ),
    SwinTransformer: (("patch_embed.",), *((f"layers.{index}.",) for index in range(4))),
}
ALL = pytest.mark.parametrize("backbone_class", list(SMALL))


def small(backbone_class: type, **keywords):
    torch.manual_seed(0)
    return shake(backbone_class(variant=SMALL[backbone_class], **keywords))


def squares(features: dict[str, torch.Tensor]) -> torch.Tensor:
    return sum((feature * feature).mean() for feature in features.values())


@ALL
def test_any_input_size_gives_maps_of_the_promised_channels(backbone_class):
    """Sizes of maps: test_size_arithmetic.py."""
    backbone = small(backbone_class).eval()
    shapes = backbone.output_shape()
    assert {name: shape.stride for name, shape in shapes.items()} == {
        "res2": 4,
        "res3": 8,
        "res4": 16,
        "res5": 32,
    }
    for height, width in [(1, 1), (5, 7), (33, 47), (64, 40), (31, 9), (2, 100)]:
        with torch.no_grad():
            features = backbone(torch.randn(2, 3, height, width))
        assert list(features) == list(shapes)
        for name, feature in features.items():
            assert feature.shape[:2] == (2, shapes[name].channels)
            assert feature.numel() > 0
            assert feature.isfinite().all()
            formats = (torch.contiguous_format, torch.channels_last)
            assert any(feature.is_contiguous(memory_format=form) for form in formats)


@ALL
def test_an_image_has_the_same_features_alone_and_in_a_batch(backbone_class):
    backbone = small(backbone_class).eval()
    images = torch.randn(3, 3, 40, 56)
    with torch.no_grad():
        together, alone = backbone(images), backbone(images[1:2])
    for name, feature in alone.items():
        torch.testing.assert_close(together[name][1:2], feature, atol=1e-5, rtol=1e-4)


@ALL
def test_unused_stages_are_not_built_and_the_gradient_reaches_all_others(backbone_class):
    full = small(backbone_class)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = full.eval()(image)
    for out_features in (("res2",), ("res3",), ("res2", "res4"), ("res5", "res2"), ("res2", "res3", "res5")):
        shallow = small(backbone_class, out_features=out_features).eval()
        shallow.load_state_dict({key: full.state_dict()[key] for key in shallow.state_dict()})
        assert list(shallow.output_shape()) == sorted(out_features)
        with torch.no_grad():
            features = shallow(image)
        assert list(features) == sorted(out_features)
        for name, feature in features.items():
            torch.testing.assert_close(feature, expected[name])
        squares(shallow.train()(image)).backward()
        without = [key for key, parameter in shallow.named_parameters() if parameter.grad is None]
        assert without == []


@ALL
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 3, 5])
def test_frozen_stages_have_no_gradient_and_all_others_do(backbone_class, freeze_at):
    backbone = small(backbone_class, freeze_at=freeze_at, drop_path_rate=0.5).train()
    frozen = tuple(itertools.chain(*PARTS[backbone_class][:freeze_at]))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    squares(backbone(torch.randn(2, 3, 64, 64, requires_grad=True))).backward()
    for key, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == key.startswith(frozen or "nothing"), key
    for key, value in backbone.state_dict().items():
        assert not key.startswith(frozen or "nothing") or torch.equal(value, before[key]), key
    if freeze_at == 5:
        image = torch.randn(2, 3, 32, 32)
        assert torch.equal(backbone(image)["res5"], backbone(image)["res5"])  # no stochastic depth


@ALL
def test_activation_checkpointing_leaves_outputs_and_gradients_unchanged(backbone_class):
    image = torch.randn(2, 3, 64, 32)
    gradients, saved = [], []
    for enabled in (False, True):
        backbone = small(backbone_class, activation_checkpointing=enabled, drop_path_rate=0.3).train()
        kept = []

        def keep(x: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            torch.manual_seed(1)
            loss = squares(backbone(image))
        loss.backward()
        saved.append(sum(kept))
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    assert saved[1] < 0.7 * saved[0]
    for expected, actual in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected)


@ALL
def test_drop_path_is_random_in_training_and_off_otherwise(backbone_class):
    backbone = small(backbone_class, drop_path_rate=0.6)
    plain = small(backbone_class)
    for module in backbone.modules():  # so that batch statistics do not affect the comparison
        module.momentum = 0.0 if isinstance(module, nn.BatchNorm2d) else None
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(backbone.eval()(image)["res5"], plain.eval()(image)["res5"])
        backbone.train()
        results = torch.stack([backbone(image)["res5"] for _ in range(8)])
    assert results.std(dim=0).max() > 0


@ALL
def test_config_keys_reach_the_constructor(backbone_class, monkeypatch):
    monkeypatch.setitem(backbone_class.variants, "small", SMALL[backbone_class])
    cfg = make_config(
        2,
        *("MODEL.BACKBONE.NAME", backbone_class.__name__, "MODEL.BACKBONE.VARIANT", "small"),
        *("MODEL.BACKBONE.OUT_FEATURES", ("res3", "res4"), "MODEL.BACKBONE.FREEZE_AT", 1),
        *("MODEL.BACKBONE.CHECKPOINT", True, "MODEL.BACKBONE.DROP_PATH_RATE", 0.25),
    )
    backbone = build_backbone(cfg)
    assert isinstance(backbone, backbone_class)
    assert list(backbone.output_shape()) == ["res3", "res4"]
    assert backbone.activation_checkpointing
    frozen = [key for key, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert frozen
    assert all(key.startswith(PARTS[backbone_class][0]) for key in frozen)
    cfg.MODEL.BACKBONE.OUTPUT_STRIDE = 8
    name = backbone_class.__name__
    with pytest.raises(ValueError, match=f"OUTPUT_STRIDE 8: a {name} has no dilation; use 32"):
        build_backbone(cfg)
    cfg.MODEL.BACKBONE.VARIANT = "b9"
    with pytest.raises(ValueError, match=f"VARIANT 'b9' is not a {name}; choose one of .*small"):
        build_backbone(cfg)


def test_unknown_outputs_are_refused():
    with pytest.raises(
        ValueError, match=r"^out_features \['res6'\]: expected some of res2, res3, res4, res5"
    ):
        MixTransformer(variant=PYRAMID, out_features=("res6",))
