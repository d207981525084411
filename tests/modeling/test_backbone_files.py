"""Published classifier files, with the names of each code base, load into the backbone of a model."""

import re

import pytest
import torch
from torch import nn

from segzoo.checkpoint import load_checkpoint
from segzoo.checkpoint.rules_cnn import (
    MMSEG_CLASSIFIER,
    MMSEG_FCN_AUXILIARY,
    MMSEG_RESNET,
    SEMSEG_RESNET,
    WIDE_RESNET38,
    Rules,
)
from segzoo.modeling.backbones.resnet import ResNetBackbone, ResNetVariant
from tests.modeling.modeling_helpers import relative_difference, shake

SIZES = {
    "plain": ResNetVariant("bottleneck", (1, 1, 1, 1)),
    "v1c": ResNetVariant("bottleneck", (1, 1, 1, 1), deep_stem=(32, 32, 64)),
    "v1d": ResNetVariant("bottleneck", (1, 1, 1, 1), deep_stem=(32, 32, 64), pooled_shortcut=True),
    "v1s": ResNetVariant("bottleneck", (1, 1, 1, 1), deep_stem=(64, 64, 128)),
}


def timm_classifier(variant: str) -> nn.Module:
    timm = pytest.importorskip("timm")
    options = {
        "plain": {},
        "v1c": {"stem_width": 32, "stem_type": "deep"},
        "v1d": {"stem_width": 32, "stem_type": "deep", "avg_down": True},
        "v1s": {"stem_width": 64, "stem_type": "deep"},
    }[variant]
    torch.manual_seed(0)
    return shake(timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, (1, 1, 1, 1), **options)).eval()


def as_openmmlab(key: str) -> str:
    """Rename timm's deep stem, `conv1` and `bn1`, to OpenMMLab's `stem`."""
    return re.sub(r"^bn1\.", "stem.7.", re.sub(r"^conv1\.(?=\d)", "stem.", key))


def as_semseg(key: str) -> str:
    """Rename timm's deep stem to that of semseg's classifier: conv1, bn1, conv2, ..."""
    for place, name in ((0, "conv1"), (1, "bn1"), (3, "conv2"), (4, "bn2"), (6, "conv3"), (7, "bn3")):
        key = re.sub(rf"^stem\.{place}\.", f"{name}.", key)
    return key


@pytest.mark.parametrize(
    ("variant", "names", "source"),
    [
        ("plain", lambda key: key, "torchvision ResNet"),
        ("v1c", lambda key: key, "timm ResNet with a deep stem"),
        ("v1s", lambda key: key, "timm ResNet with a deep stem"),
        ("v1d", lambda key: key, "timm ResNet v1d"),
        ("v1c", as_openmmlab, "OpenMMLab ImageNet ResNet"),
        ("v1d", as_openmmlab, "OpenMMLab ImageNet ResNet v1d"),
        (
            "v1c",
            lambda key: f"head.{key}" if key.startswith("fc.") else f"backbone.{as_openmmlab(key)}",
            "OpenMMLab ImageNet ResNet",
        ),
        (
            "v1d",
            lambda key: f"head.{key}" if key.startswith("fc.") else f"backbone.{as_openmmlab(key)}",
            "OpenMMLab ImageNet ResNet v1d",
        ),
        ("v1s", lambda key: as_semseg(as_openmmlab(key)), "torchvision ResNet"),
        ("v1s", lambda key: f"module.{as_semseg(as_openmmlab(key))}", "torchvision ResNet"),
    ],
)
def test_classifiers_of_every_code_base_load_into_the_backbone(variant, names, source, tmp_path):
    peer = timm_classifier(variant)
    state = {names(key): value for key, value in peer.state_dict().items()}
    assert len(state) == len(peer.state_dict())
    torch.save({"state_dict": state}, tmp_path / "classifier.pth")
    model = nn.ModuleDict({"backbone": ResNetBackbone(variant=SIZES[variant]), "head": nn.Linear(2, 2)})
    report = load_checkpoint(model, tmp_path / "classifier.pth")
    assert report.source == source
    assert sorted(report.reinitialized) == ["head.bias", "head.weight"]
    assert not report.missing
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        feature = model.eval()["backbone"](image)["res5"]
        assert relative_difference(feature, peer.forward_features(image)) < 1e-5
    bare = ResNetBackbone(variant=SIZES[variant])
    load_checkpoint(bare, tmp_path / "classifier.pth")
    torch.testing.assert_close(bare.state_dict(), model["backbone"].state_dict())


def renamed(rules: Rules, key: str) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


# Names as the public files have them.
@pytest.mark.parametrize(
    ("rules", "key", "expected"),
    [
        (MMSEG_RESNET, "backbone.stem.0.weight", "backbone.stem.conv1.weight"),
        (MMSEG_RESNET, "backbone.stem.7.running_var", "backbone.stem.conv3.norm.running_var"),
        (MMSEG_RESNET, "backbone.conv1.weight", "backbone.stem.conv1.weight"),
        (MMSEG_RESNET, "backbone.bn1.bias", "backbone.stem.conv1.norm.bias"),
        (MMSEG_RESNET, "backbone.layer4.2.bn3.weight", "backbone.res5.2.conv3.norm.weight"),
        (MMSEG_RESNET, "backbone.layer1.0.downsample.1.bias", "backbone.res2.0.shortcut.norm.bias"),
        (MMSEG_RESNET, "decode_head.convs.0.bn.weight", "decode_head.convs.0.bn.weight"),
        (MMSEG_FCN_AUXILIARY, "auxiliary_head.convs.0.conv.weight", "auxiliary_head.convs.0.weight"),
        (MMSEG_FCN_AUXILIARY, "auxiliary_head.convs.0.bn.bias", "auxiliary_head.convs.0.norm.bias"),
        (MMSEG_FCN_AUXILIARY, "auxiliary_head.conv_seg.bias", "auxiliary_head.predictor.bias"),
        (MMSEG_CLASSIFIER, "decode_head.conv_seg.weight", "sem_seg_head.predictor.weight"),
        (SEMSEG_RESNET, "layer0.6.weight", "backbone.stem.conv3.weight"),
        (SEMSEG_RESNET, "layer0.1.running_mean", "backbone.stem.conv1.norm.running_mean"),
        (SEMSEG_RESNET, "layer3.22.conv2.weight", "backbone.res4.22.conv2.weight"),
        (SEMSEG_RESNET, "layer2.0.downsample.0.weight", "backbone.res3.0.shortcut.weight"),
        (SEMSEG_RESNET, "ppm.features.0.1.weight", "ppm.features.0.1.weight"),
        (SEMSEG_RESNET, "aux.1.weight", "aux.1.weight"),
        (WIDE_RESNET38, "mod1.conv1.weight", "backbone.mod1.weight"),
        (WIDE_RESNET38, "mod2.block1.bn1.0.weight", "backbone.mod2.block1.norm1.weight"),
        (WIDE_RESNET38, "mod7.block1.convs.bn3.0.bias", "backbone.mod7.block1.norm3.bias"),
        (WIDE_RESNET38, "mod5.block3.convs.conv2.weight", "backbone.mod5.block3.conv2.weight"),
        (WIDE_RESNET38, "mod6.block1.proj_conv.weight", "backbone.mod6.block1.shortcut.weight"),
        (WIDE_RESNET38, "bot_fine.weight", "bot_fine.weight"),
    ],
)
def test_names_of_published_dense_models_are_mapped(rules, key, expected):
    assert renamed(rules, key) == expected
