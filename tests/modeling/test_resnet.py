"""Residual networks against torchvision, timm, mmsegmentation and Detectron2 (whose names they share)."""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

from segzoo.checkpoint import load_checkpoint
from segzoo.modeling.backbones.resnet import VARIANTS, ResNetBackbone, block_dilations
from tests.modeling.modeling_helpers import make_config, relative_difference, shake
from tests.modeling.peers import mmseg_models

IMAGE_SIZES = [(65, 96), (47, 33)]


def load(backbone: nn.Module, peer: nn.Module, tmp_path) -> str:
    """Load the peer's weights with their own names; return the name of their layout."""
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    report = load_checkpoint(nn.ModuleDict({"backbone": backbone}), tmp_path / "peer.pth")
    assert report.complete
    assert not report.unexpected
    return report.source


def assert_equal_features(backbone: nn.Module, expected_of, tolerance: float = 1e-5) -> None:
    for size in IMAGE_SIZES:
        image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            features, expected = backbone.eval()(image), expected_of(image)
        for (name, feature), peer_feature in zip(features.items(), expected, strict=True):
            assert relative_difference(feature, peer_feature) < tolerance, name


def torchvision_stages(peer: nn.Module):
    def features(image: torch.Tensor) -> list[torch.Tensor]:
        x = peer.maxpool(peer.relu(peer.bn1(peer.conv1(image))))
        maps = []
        for layer in (peer.layer1, peer.layer2, peer.layer3, peer.layer4):
            x = layer(x)
            maps.append(x)
        return maps

    return features


@pytest.mark.parametrize(
    ("variant", "name", "output_stride"),
    [("r18", "resnet18", 32), ("r34_v1b", "resnet34", 32), ("r50", "resnet50", 32), ("r50", "resnet50", 8)],
)
def test_features_equal_those_of_torchvision(variant, name, output_stride, tmp_path):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    dilated = {8: {"replace_stride_with_dilation": [False, True, True]}, 32: {}}[output_stride]
    peer = shake(getattr(torchvision.models, name)(weights=None, **dilated)).eval()
    backbone = ResNetBackbone(
        variant=VARIANTS[variant], output_stride=output_stride, dilation_style="contract"
    )
    assert load(backbone, peer, tmp_path) == "torchvision ResNet"
    assert_equal_features(backbone, torchvision_stages(peer))


# timm's v1d pools with stride 1 in a dilated stage, unlike all published dense models.
@pytest.mark.parametrize(
    ("variant", "name", "output_stride"),
    [
        ("r18", "resnet18", 8),
        ("r50_v1c", "resnet50c", 16),
        ("r50_v1s", "resnet50s", 8),
        ("r50_v1d", "resnet50d", 32),
    ],
)
def test_features_equal_those_of_timm(variant, name, output_stride, tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    classifier = shake(timm.create_model(name)).eval()
    peer = timm.create_model(name, features_only=True, output_stride=output_stride, out_indices=(1, 2, 3, 4))
    peer.load_state_dict(classifier.state_dict(), strict=False)
    backbone = ResNetBackbone(
        variant=VARIANTS[variant], output_stride=output_stride, dilation_style="contract"
    )
    load(backbone, classifier, tmp_path)
    assert_equal_features(backbone, peer.eval())


@pytest.mark.parametrize(
    ("variant", "peer_options", "contract", "style", "output_stride"),
    [
        ("r50_v1c", {"type": "ResNetV1c", "depth": 50}, True, "contract", 8),
        ("r50_v1c", {"type": "ResNetV1c", "depth": 50}, False, "uniform", 16),
        ("r50_v1d", {"type": "ResNetV1d", "depth": 50}, True, "mmseg", 8),
        ("r50_v1s", {"type": "ResNetV1c", "depth": 50, "stem_channels": 128}, False, "uniform", 8),
        ("r18_v1d", {"type": "ResNetV1d", "depth": 18}, True, "mmseg", 8),
    ],
)
def test_features_equal_those_of_mmsegmentation(
    variant, peer_options, contract, style, output_stride, tmp_path
):
    models = mmseg_models()
    torch.manual_seed(0)
    strides, dilations = {8: ((1, 2, 1, 1), (1, 1, 2, 4)), 16: ((1, 2, 2, 1), (1, 1, 1, 2))}[output_stride]
    options = {"strides": strides, "dilations": dilations, "contract_dilation": contract, **peer_options}
    peer = shake(models.BACKBONES.build(options))
    peer.eval()
    backbone = ResNetBackbone(variant=VARIANTS[variant], output_stride=output_stride, dilation_style=style)
    load(backbone, peer, tmp_path)
    assert_equal_features(backbone, peer)


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
    backbone = ResNetBackbone(variant=VARIANTS[variant], output_stride=output_stride)
    # The order of the parameters is also Detectron2's: optimizer states depend on it.
    assert list(backbone.state_dict()) == list(peer.state_dict())
    backbone.load_state_dict(peer.state_dict(), strict=True)
    assert backbone.output_shape() == peer.output_shape()
    assert_equal_features(backbone, lambda image: peer(image).values())


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


def test_dilation_styles_have_the_published_dilations():
    assert block_dilations(3, 4, 2, "uniform") == [(4, 4), (4, 4), (4, 4)]
    assert block_dilations(3, 4, 2, "contract") == [(2, 4), (4, 4), (4, 4)]
    assert block_dilations(2, 2, 1, "mmseg") == [(1, 1), (2, 1)]
    assert block_dilations(3, 2, 1, "contract", multi_grid=(1, 2, 4)) == [(2, 2), (4, 4), (8, 8)]


# torchvision's published counts, without their classifiers of 512 x 1000 + 1000 and 2048 x 1000 + 1000.
@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("r18_v1b", 11_689_512 - 513_000),
        ("r34_v1b", 21_797_672 - 513_000),
        ("r50_v1b", 25_557_032 - 2_049_000),
        ("r101_v1b", 44_549_160 - 2_049_000),
        ("r152_v1b", 60_192_808 - 2_049_000),
    ],
)
def test_parameter_counts_are_the_published_ones(variant, parameters):
    def count(name: str) -> int:
        with torch.device("meta"):
            backbone = ResNetBackbone(variant=VARIANTS[name], norm="BN")
        return sum(parameter.numel() for parameter in backbone.parameters())

    assert count(variant) == parameters
    # Deep stems instead of 7 x 7 x 3 x 64 weights and 64 scales and offsets.
    plain = 7 * 7 * 3 * 64 + 2 * 64
    narrow = 9 * (3 * 32 + 32 * 32 + 32 * 64) + 2 * (32 + 32 + 64)
    wide = 9 * (3 * 64 + 64 * 64 + 64 * 128) + 2 * (64 + 64 + 128)
    assert count(variant.replace("v1b", "v1c")) == parameters - plain + narrow
    assert count(variant.replace("v1b", "v1d")) == parameters - plain + narrow
    if VARIANTS[variant].block == "bottleneck":  # 64 more input channels of a 1 x 1 64 and a 1 x 1 256
        assert count(variant.replace("v1b", "v1s")) == parameters - plain + wide + 64 * (64 + 256)


def test_stochastic_depth_rises_linearly_and_drops_whole_branches():
    backbone = ResNetBackbone(variant=VARIANTS["r18_half"], norm="BN", drop_path_rate=0.875)
    blocks = [block for stage in backbone.stages for block in stage]
    assert blocks[0].drop_path is None
    assert [block.drop_path.rate for block in blocks[1:]] == pytest.approx([i / 8 for i in range(1, 8)])
    torch.manual_seed(0)
    x = torch.rand(64, blocks[-1].in_channels, 3, 3)
    kept = (blocks[-1].train()(x) != x).flatten(1).any(dim=1)
    assert 0 < kept.sum() < 32  # 8 of 64 are expected
    assert (blocks[-1].eval()(x) != x).flatten(1).any(dim=1).all()


def test_frozen_stages_have_no_stochastic_depth():
    backbone = ResNetBackbone(
        variant=VARIANTS["r18_half"], norm="BN", drop_path_rate=0.9, freeze_at=5
    ).train()
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(backbone(image)["res5"], backbone(image)["res5"])


def test_the_configuration_reaches_the_constructor():
    cfg = make_config(
        2,
        *("MODEL.BACKBONE.VARIANT", "r18_quarter", "MODEL.BACKBONE.OUTPUT_STRIDE", 8),
        *("MODEL.BACKBONE.DILATION_STYLE", "contract", "MODEL.BACKBONE.DROP_PATH_RATE", 0.5),
    )
    backbone = ResNetBackbone(cfg, ShapeSpec(channels=3))
    assert [block.conv1.dilation[0] for block in (*backbone.res4, *backbone.res5)] == [1, 2, 2, 4]
    assert backbone.res5[-1].drop_path.rate == pytest.approx(0.5)


def test_unknown_output_strides_and_styles_are_refused_by_name():
    with pytest.raises(ValueError, match="OUTPUT_STRIDE 12: expected 8, 16 or 32"):
        ResNetBackbone(variant=VARIANTS["r18"], output_stride=12)
    with pytest.raises(ValueError, match="DILATION_STYLE 'hybrid': expected uniform, contract, mmseg"):
        ResNetBackbone(variant=VARIANTS["r18"], dilation_style="hybrid")
