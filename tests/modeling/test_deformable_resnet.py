"""Residual networks with deformable convolutions against Detectron2's block with its operator restated."""

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.layers import deform_conv as detectron2_operators
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, DeformBottleneckBlock, ResNet

from segzoo.checkpoint import load_checkpoint
from segzoo.model_zoo import load_config
from segzoo.modeling.backbones.residual_blocks import Deformable, ResidualBlock
from segzoo.modeling.backbones.resnet import VARIANTS, ResNetBackbone, ResNetVariant
from segzoo.utils.errors import InputError
from tests.modeling.deform_conv_reference import deform_conv
from tests.modeling.modeling_helpers import make_config, relative_difference, shake

SMALL = ResNetVariant("bottleneck", (1, 2, 2, 1), width=4)


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


@pytest.fixture
def operators(monkeypatch):
    """Compute Detectron2's deformable operators in NumPy: theirs need a GPU or one deformable group."""

    def plain(x, offset, weight, stride, padding, dilation, groups, parts, mask=None, bias=None):
        assert weight.shape[1] * groups == x.shape[1]
        assert offset.shape[1] == 18 * parts
        arrays = [tensor.detach().double().numpy() for tensor in (x, offset, weight)]
        mask = None if mask is None else mask.detach().double().numpy()
        found = deform_conv(*arrays, bias, _pair(stride), _pair(padding), _pair(dilation), mask)
        return torch.from_numpy(found.astype(np.float32))

    def modulated(x, offset, mask, weight, bias, *options):
        return plain(x, offset, weight, *options, mask=mask, bias=bias)

    monkeypatch.setattr(detectron2_operators, "deform_conv", plain)
    monkeypatch.setattr(detectron2_operators, "modulated_deform_conv", modulated)


def with_offsets(module: torch.nn.Module) -> torch.nn.Module:
    """Draw the offset convolutions, so that offsets of about a pixel result."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "conv2_offset" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


@pytest.mark.parametrize(
    ("modulated", "groups", "stride", "dilation", "in_1x1"),
    [(True, 1, 1, 1, False), (False, 1, 2, 1, False), (True, 2, 2, 1, True), (False, 2, 1, 2, False)],
)
def test_the_block_is_that_of_detectron2(operators, modulated, groups, stride, dilation, in_1x1):
    torch.manual_seed(0)
    peer = DeformBottleneckBlock(
        8,
        16,
        bottleneck_channels=4,
        stride=stride,
        stride_in_1x1=in_1x1,
        dilation=dilation,
        deform_modulated=modulated,
        deform_num_groups=groups,
    )
    peer = with_offsets(shake(peer)).eval()
    block = ResidualBlock(
        8,
        16,
        block_type="bottleneck",
        stride=stride,
        stride_in_1x1=in_1x1,
        dilations=(dilation, dilation),
        deformable=Deformable(modulated, groups),
    ).eval()
    # In the same order too, which optimizer states depend on.
    assert [(name, value.shape) for name, value in block.named_parameters()] == [
        (name, value.shape) for name, value in peer.named_parameters()
    ]
    block.load_state_dict(peer.state_dict())
    x = torch.randn(1, 8, 9, 8)
    with torch.no_grad():
        assert relative_difference(block(x), peer(x)) < 1e-5


def detectron2_network(stride_in_1x1: bool) -> ResNet:
    """Build R101-DCNv2's structure in small: res3 to res5 are deformable and modulated."""
    stages, channels = [], 4
    for index, depth in enumerate(SMALL.depths):
        blocks = []
        for block in range(depth):
            kind, options = (
                (DeformBottleneckBlock, {"deform_modulated": True}) if index else (BottleneckBlock, {})
            )
            inner = 4 * 2**index
            blocks.append(
                kind(
                    channels,
                    4 * inner,
                    bottleneck_channels=inner,
                    stride=2 if index and not block else 1,
                    stride_in_1x1=stride_in_1x1,
                    norm="FrozenBN",
                    **options,
                )
            )
            channels = 4 * inner
        stages.append(blocks)
    return ResNet(BasicStem(3, 4, "FrozenBN"), stages, out_features=["res2", "res3", "res4", "res5"])


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_the_network_is_that_of_detectron2(operators, stride_in_1x1):
    torch.manual_seed(0)
    peer = with_offsets(shake(detectron2_network(stride_in_1x1))).eval()
    backbone = ResNetBackbone(
        variant=SMALL,
        stride_in_1x1=stride_in_1x1,
        deform_stages=("res3", "res4", "res5"),
        deform_modulated=True,
    ).eval()
    assert list(backbone.state_dict()) == list(peer.state_dict())
    backbone.load_state_dict(peer.state_dict())
    image = torch.randn(1, 3, 41, 50)
    with torch.no_grad():
        features, expected = backbone(image), peer(image)
    for name, feature in features.items():
        assert relative_difference(feature, expected[name]) < 1e-4, name


def test_r101_dcnv2_has_the_offset_convolutions_of_the_published_files():
    with torch.device("meta"):
        backbone = ResNetBackbone(
            variant=VARIANTS["r101"], deform_stages=("res3", "res4", "res5"), deform_modulated=True
        )
        plain = ResNetBackbone(variant=VARIANTS["r101"])
    added = {name: tuple(value.shape) for name, value in backbone.state_dict().items()}
    for name in plain.state_dict():
        del added[name]
    expected = {}
    for stage, depth, channels in (("res3", 4, 128), ("res4", 23, 256), ("res5", 3, 512)):
        for block in range(depth):
            expected[f"{stage}.{block}.conv2_offset.weight"] = (27, channels, 3, 3)
            expected[f"{stage}.{block}.conv2_offset.bias"] = (27,)
    assert added == expected
    assert len(added) == 60


def test_files_of_plain_networks_are_loaded_and_the_offsets_keep_their_zeros(tmp_path):
    peer = detectron2_network(stride_in_1x1=False)
    plain = {name: value for name, value in peer.state_dict().items() if "conv2_offset" not in name}
    torch.save(plain, tmp_path / "plain.pth")
    backbone = ResNetBackbone(variant=SMALL, deform_stages=("res3", "res4", "res5"), deform_modulated=True)
    report = load_checkpoint(torch.nn.ModuleDict({"backbone": backbone}), tmp_path / "plain.pth")
    offsets = [f"backbone.{name}" for name in backbone.state_dict() if "conv2_offset" in name]
    assert report.reinitialized == offsets
    assert not report.missing
    assert torch.equal(backbone.res4[1].conv2.weight, plain["res4.1.conv2.weight"])
    assert not backbone.res4[1].conv2_offset.weight.any()


def test_it_starts_as_a_convolution_and_learns_offsets():
    torch.manual_seed(0)
    backbone = ResNetBackbone(variant=SMALL, norm="BN", deform_stages=("res5",))
    plain = ResNetBackbone(variant=SMALL, norm="BN")
    plain.load_state_dict(backbone.state_dict(), strict=False)
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(backbone(image)["res5"], plain(image)["res5"], atol=1e-4, rtol=1e-4)
    backbone(image)["res5"].square().mean().backward()
    assert backbone.res5[0].conv2_offset.weight.grad.abs().sum() > 0


def test_activation_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = ResNetBackbone(
            variant=SMALL,
            norm="BN",
            deform_stages=("res4",),
            deform_modulated=True,
            activation_checkpointing=checkpointing,
        )
        with_offsets(backbone).train()
        backbone(torch.randn(2, 3, 64, 64))["res5"].square().mean().backward()
        gradients.append(backbone.res4[1].conv2_offset.weight.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[1], gradients[0])


def test_the_exported_backbone_has_the_same_features_and_standard_operators():
    torch.manual_seed(0)
    backbone = ResNetBackbone(variant=SMALL, deform_stages=("res5",), deform_modulated=True, deform_groups=2)
    with_offsets(shake(backbone)).eval()
    image = torch.randn(1, 3, 77, 51)
    program = torch.export.export(backbone, (image,))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert any("grid_sampler" in name for name in operators)
    assert not any(name in operator for operator in operators for name in ("embedding_bag", "autocast"))
    with torch.no_grad():
        found, expected = program.module()(image), backbone(image)
    for name, feature in expected.items():
        assert relative_difference(found[name], feature) < 1e-5, name


def test_the_configuration_reaches_the_blocks():
    cfg = make_config(
        2,
        *("MODEL.BACKBONE.NAME", "ResNetBackbone", "MODEL.BACKBONE.VARIANT", "r50"),
        *("MODEL.BACKBONE.DEFORM_STAGES", ("res4", "res5"), "MODEL.BACKBONE.DEFORM_MODULATED", True),
        *("MODEL.BACKBONE.DEFORM_GROUPS", 2, "MODEL.BACKBONE.STRIDE_IN_1X1", True),
    )
    with torch.device("meta"):
        backbone = ResNetBackbone(cfg, ShapeSpec(channels=3))
    assert backbone.res3[0].conv2_offset is None
    assert (backbone.res3[0].conv1.stride, backbone.res3[0].conv2.stride) == ((2, 2), (1, 1))
    for block in (*backbone.res4, *backbone.res5):
        assert block.conv2_offset.out_channels == 54
        assert block.conv2.deformable_groups == 2


def test_wrong_options_are_refused_in_one_line():
    for variant, options, message in (
        (
            "r18",
            {"deform_stages": ("res5",)},
            "deform_stages .'res5'.: only bottlenecks can be deformable; choose variant r50",
        ),
        ("r50", {"deform_stages": ("res6",)}, "'res6' is unknown, expected some of res2, res3, res4, res5"),
        ("r50", {"deform_stages": ("res5",), "deform_groups": 3}, "deform_groups 3 does not divide the 512"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            ResNetBackbone(variant=VARIANTS[variant], **options)
        assert "\n" not in str(caught.value)
    deformable = ("MODEL.BACKBONE.VARIANT", "r18", "MODEL.BACKBONE.DEFORM_STAGES", ("res5",))
    with pytest.raises(InputError, match=r"^MODEL.BACKBONE.DEFORM_STAGES \['res5'\]: only bottlenecks"):
        ResNetBackbone(
            make_config(2, "MODEL.BACKBONE.NAME", "ResNetBackbone", *deformable), ShapeSpec(channels=3)
        )
    with pytest.raises(InputError, match="expected different stages of res2, res3, res4, res5"):
        load_config("panoptic/shapes/mask2former_r18_quarter", ["MODEL.BACKBONE.DEFORM_STAGES", "('res6',)"])
