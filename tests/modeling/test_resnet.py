"""Residual networks against torchvision and against Detectron2's own, whose parameter names they share."""

import copy
import re

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from modeling_helpers import relative_difference, shake

from segzoo.modeling.backbones.resnet import VARIANTS, ResNetBackbone


@pytest.mark.parametrize(("variant", "name"), [("r18", "resnet18"), ("r34", "resnet34"), ("r50", "resnet50")])
def test_features_equal_those_of_torchvision(variant, name):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    peer = shake(getattr(torchvision.models, name)(weights=None)).eval()
    state = {}
    for key, value in peer.state_dict().items():
        if key.startswith("fc.") or key.endswith("num_batches_tracked"):
            continue
        key = re.sub(r"^conv1\.", "stem.conv1.", key)
        key = re.sub(r"^bn1\.", "stem.conv1.norm.", key)
        key = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", key)
        key = re.sub(r"\.bn(\d)\.", r".conv\1.norm.", key)
        key = key.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")
        state[key] = value
    backbone = ResNetBackbone(variant=VARIANTS[variant]).eval()
    backbone.load_state_dict(state, strict=True)
    image = torch.randn(1, 3, 65, 96)
    with torch.no_grad():
        x = peer.maxpool(peer.relu(peer.bn1(peer.conv1(image))))
        for index, feature in enumerate(backbone(image).values(), start=1):
            x = getattr(peer, f"layer{index}")(x)
            assert relative_difference(feature, x) < 1e-5


@pytest.mark.parametrize(
    ("variant", "output_stride", "depth", "stem", "dilations", "multi_grid"),
    [
        ("r50", 16, 50, ("basic", 64), (1, 2), [1, 1, 1]),
        ("r50", 8, 50, ("basic", 64), (2, 4), [1, 1, 1]),
        ("r101c", 32, 101, ("deeplab", 128), (1, 1), [1, 2, 4]),
    ],
)
def test_dilated_networks_equal_those_of_detectron2_with_the_same_weights(
    variant, output_stride, depth, stem, dilations, multi_grid
):
    deeplab = pytest.importorskip("detectron2.projects.deeplab")
    cfg = get_cfg()
    deeplab.add_deeplab_config(cfg)
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.STEM_TYPE, cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = stem
    cfg.MODEL.RESNETS.RES4_DILATION, cfg.MODEL.RESNETS.RES5_DILATION = dilations
    cfg.MODEL.RESNETS.RES5_MULTI_GRID = multi_grid
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    torch.manual_seed(0)
    peer = BACKBONE_REGISTRY.get("build_resnet_deeplab_backbone")(cfg, ShapeSpec(channels=3))
    shake(peer).eval()
    backbone = ResNetBackbone(variant=VARIANTS[variant], output_stride=output_stride).eval()
    backbone.load_state_dict(peer.state_dict(), strict=True)
    assert backbone.output_shape() == peer.output_shape()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features, expected = backbone(image), peer(image)
    for name, feature in features.items():
        assert relative_difference(feature, expected[name]) < 1e-5


def test_a_dilated_basic_stage_acts_on_each_lattice_like_a_plain_one():
    torch.manual_seed(0)
    backbone = shake(ResNetBackbone(variant=VARIANTS["r18_half"], output_stride=8)).eval()
    plain = copy.deepcopy(backbone.res4)
    for block in plain:
        for convolution in (block.conv1, block.conv2):
            convolution.dilation = convolution.padding = (1, 1)
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 64, 96))
        assert features["res4"].shape[-2:] == features["res5"].shape[-2:] == (8, 12)
        for row in range(2):
            for column in range(2):
                lattice = plain(features["res3"][..., row::2, column::2])
                assert relative_difference(features["res4"][..., row::2, column::2], lattice) < 1e-5


def test_unknown_output_stride_is_refused_by_name():
    with pytest.raises(ValueError, match="OUTPUT_STRIDE 12: expected 8, 16 or 32"):
        ResNetBackbone(variant=VARIANTS["r18"], output_stride=12)
