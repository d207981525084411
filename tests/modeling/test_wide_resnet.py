"""WideResNet38-A2 against a plain reimplementation of the published network with its names."""

import copy

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from segzoo.checkpoint import load_checkpoint
from segzoo.modeling.backbones.wide_resnet import VARIANTS, WideResNetBackbone, WideResNetVariant
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import make_config, relative_difference, shake

SMALL = WideResNetVariant((1, 2, 1, 2, 1, 1), width=4)
ALL = ("res1", "res2", "res3", "res4", "res5")

# For each module of the published network: channels (for width 64), stride of its first block at output
# stride 32, dilation at 8.
MODULES = {
    "mod2": ((128, 128), 1, 1),
    "mod3": ((256, 256), 1, 1),
    "mod4": ((512, 512), 2, 1),
    "mod5": ((512, 1024), 2, 2),
    "mod6": ((512, 1024, 2048), 2, 4),
    "mod7": ((1024, 2048, 4096), 1, 4),
}


def published_weights(variant: WideResNetVariant, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights with the names of the published classifier."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def convolution(name: str, before: int, after: int, side: int) -> None:
        spread = (2 / (before * side**2)) ** 0.5
        state[f"{name}.weight"] = spread * torch.randn(after, before, side, side, generator=generator)

    def norm(name: str, channels: int) -> None:
        for key in ("weight", "bias", "running_mean"):
            state[f"{name}.0.{key}"] = (key == "weight") + 0.1 * torch.randn(channels, generator=generator)
        state[f"{name}.0.running_var"] = 1 + torch.rand(channels, generator=generator)
        state[f"{name}.0.num_batches_tracked"] = torch.tensor(7)

    convolution("mod1.conv1", 3, variant.width, 3)
    before = variant.width
    for (name, (channels, _, _)), depth in zip(MODULES.items(), variant.depths, strict=True):
        sizes = [size * variant.width // 64 for size in channels]
        sides = (3, 3) if len(sizes) == 2 else (1, 3, 1)
        for block in range(1, depth + 1):
            prefix = f"{name}.block{block}"
            norm(f"{prefix}.bn1", before)
            if before != sizes[-1] or (block == 1 and name in ("mod4", "mod5", "mod6")):
                convolution(f"{prefix}.proj_conv", before, sizes[-1], 1)
            for index, (size, side) in enumerate(zip(sizes, sides, strict=True), start=1):
                convolution(f"{prefix}.convs.conv{index}", before, size, side)
                if index < len(sizes):
                    norm(f"{prefix}.convs.bn{index + 1}", size)
                before = size
    norm("bn_out", before)
    state["classifier.fc.weight"] = torch.zeros(1000, before)
    state["classifier.fc.bias"] = torch.zeros(1000)
    return state


def published_features(state: dict[str, Tensor], x: Tensor, output_stride: int) -> list[Tensor]:
    """Compute the maps after mod2, mod3, mod4, mod5 and mod7, one operation after the other."""

    def activated(name: str, x: Tensor) -> Tensor:
        values = [state[f"{name}.0.{key}"] for key in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *values))

    x = F.conv2d(x, state["mod1.conv1.weight"], padding=1)
    maps = []
    for name, (_, stride, dilation) in MODULES.items():
        stride, dilation = (stride, 1) if output_stride == 32 else (2 if name == "mod4" else 1, dilation)
        if name in ("mod2", "mod3"):
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        block = 1
        while f"{name}.block{block}.bn1.0.weight" in state:
            prefix = f"{name}.block{block}"
            first = stride if block == 1 else 1
            inner = activated(f"{prefix}.bn1", x)
            projection = state.get(f"{prefix}.proj_conv.weight")
            shortcut = x if projection is None else F.conv2d(inner, projection, stride=first)
            for index in (1, 2, 3):
                weight = state.get(f"{prefix}.convs.conv{index}.weight")
                if weight is None:
                    continue
                if index > 1:
                    inner = activated(f"{prefix}.convs.bn{index}", inner)
                wide = weight.shape[-1] == 3
                inner = F.conv2d(
                    inner,
                    weight,
                    stride=first if index == 1 else 1,
                    padding=dilation if wide else 0,
                    dilation=dilation if wide else 1,
                )
            x = shortcut + inner
            block += 1
        maps.append(x)
    return [*maps[:4], maps[5]]


@pytest.mark.parametrize("output_stride", [8, 32])
def test_features_equal_those_of_the_published_network_with_its_file(output_stride, tmp_path):
    state = published_weights(SMALL)
    # As published: from a parallel wrapper, under "state_dict".
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w.pth")
    backbone = WideResNetBackbone(
        variant=SMALL, norm="BN", output_stride=output_stride, out_features=ALL
    ).eval()
    report = load_checkpoint(nn.ModuleDict({"backbone": backbone}), tmp_path / "w.pth")
    assert report.source == "WideResNet38 ImageNet"
    assert report.complete
    assert sorted({key.split(".")[0] for key in report.extras}) == ["bn_out", "classifier"]
    strides = {8: [2, 4, 8, 8, 8], 32: [2, 4, 8, 16, 32]}[output_stride]
    shapes = backbone.output_shape()
    assert [(shape.channels, shape.stride) for shape in shapes.values()] == list(
        zip((8, 16, 32, 64, 256), strides, strict=True)
    )
    for size in [(64, 96), (37, 51)]:
        image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            features = backbone(image)
        expected = published_features(state, image, output_stride)
        assert list(features) == list(ALL)
        for feature, peer_feature, stride in zip(features.values(), expected, strides, strict=True):
            assert feature.shape[-2:] == tuple(-(-side // stride) for side in size)
            assert relative_difference(feature, peer_feature) < 1e-5


def test_output_stride_16_acts_on_each_lattice_of_the_last_modules_like_32():
    torch.manual_seed(0)
    dense = shake(WideResNetBackbone(variant=SMALL, norm="BN", output_stride=16, out_features=ALL)).eval()
    coarse = WideResNetBackbone(variant=SMALL, norm="BN", output_stride=32, out_features=ALL).eval()
    coarse.load_state_dict(dense.state_dict())
    assert dense.output_shape()["res5"].stride == 16
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features, expected = dense(image), coarse(image)
    torch.testing.assert_close(features["res4"], expected["res4"])
    assert relative_difference(features["res5"][..., ::2, ::2], expected["res5"]) < 1e-5


def test_the_whole_network_has_the_published_parameters():
    with torch.device("meta"):
        backbone = WideResNetBackbone(variant=VARIANTS["wrn38"], norm="BN")
    expected = 3 * 64 * 9  # mod1
    before = 64
    for (channels, stride, _), depth in zip(MODULES.values(), (3, 3, 6, 3, 1, 1), strict=True):
        sides = (3, 3) if len(channels) == 2 else (1, 3, 1)
        for block in range(depth):
            if before != channels[-1] or (block == 0 and stride == 2):
                expected += before * channels[-1]
            for size, side in zip(channels, sides, strict=True):
                expected += 2 * before + before * size * side**2
                before = size
    assert sum(parameter.numel() for parameter in backbone.parameters()) == expected
    assert backbone.output_shape() == {
        "res1": ShapeSpec(channels=128, stride=2),
        "res5": ShapeSpec(channels=4096, stride=8),
    }


def test_modules_after_the_last_output_are_not_built():
    backbone = WideResNetBackbone(variant=SMALL, norm="BN", out_features=("res2", "res4"))
    assert [name for name, _ in backbone.named_children()] == ["mod1", "mod2", "mod3", "mod4", "mod5"]
    sum(feature.sum() for feature in backbone(torch.randn(2, 3, 32, 32)).values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("freeze_at", "frozen"), [(0, ()), (1, ("mod1", "mod2")), (2, ("mod1", "mod2", "mod3")), (5, ("mod",))]
)
def test_frozen_modules_have_no_gradient_and_keep_their_statistics(freeze_at, frozen):
    backbone = WideResNetBackbone(variant=SMALL, norm="BN", out_features=ALL, freeze_at=freeze_at).train()
    before = copy.deepcopy(backbone.state_dict())
    backbone(torch.randn(2, 3, 32, 32))
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen or "none")
    for name, value in backbone.state_dict().items():
        if name.endswith("running_mean"):
            assert torch.equal(value, before[name]) == name.startswith(frozen or "none")


def test_dropout_drops_whole_channels_only_in_the_last_two_modules():
    backbone = WideResNetBackbone(variant=SMALL, norm="BN", out_features=ALL)
    rates = {name: module.p for name, module in backbone.named_modules() if isinstance(module, nn.Dropout2d)}
    assert rates == {"mod6.block1.dropout": 0.3, "mod7.block1.dropout": 0.5}
    dropped = []
    backbone.mod7.block1.conv3.register_forward_pre_hook(lambda _, inputs: dropped.append(inputs[0]))
    torch.manual_seed(0)
    backbone.train()(torch.randn(8, 3, 64, 64))
    empty = (dropped[0] == 0).flatten(2).all(dim=2).float().mean()
    assert 0.4 < empty < 0.65


def test_dropout_may_drop_single_values():
    backbone = WideResNetBackbone(variant=SMALL, norm="BN", out_features=ALL, dropout_kind="element")
    dropped = []
    backbone.mod7.block1.conv3.register_forward_pre_hook(lambda _, inputs: dropped.append(inputs[0]))
    torch.manual_seed(0)
    backbone.train()(torch.randn(8, 3, 64, 64))
    assert (dropped[0] == 0).flatten(2).all(dim=2).float().mean() < 0.05
    assert 0.7 < (dropped[0] == 0).float().mean() < 0.8  # half of the values, and half of what the ReLU left
    with pytest.raises(InputError, match="dropout_kind 'pixel': expected channel or element"):
        WideResNetBackbone(variant=SMALL, dropout_kind="pixel")


def test_activation_checkpointing_leaves_outputs_and_gradients_unchanged():
    torch.manual_seed(0)
    backbone = shake(WideResNetBackbone(variant=SMALL, norm="FrozenBN", out_features=ALL)).train()
    for module in backbone.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    checkpointing = copy.deepcopy(backbone)
    checkpointing.activation_checkpointing = True
    image = torch.randn(1, 3, 32, 64)
    gradients = []
    for module in (backbone, checkpointing):
        sum((feature**2).mean() for feature in module(image).values()).backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
    for expected, actual in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("VARIANT", "wrn40", "VARIANT 'wrn40' is not a WideResNetBackbone; choose one of wrn38"),
        ("OUTPUT_STRIDE", 4, "^MODEL.BACKBONE.OUTPUT_STRIDE 4: expected 8, 16 or 32"),
        ("OUT_FEATURES", ("res6",), r"OUT_FEATURES \['res6'\]: expected some of res1, res2"),
        ("DROP_PATH_RATE", 0.1, "DROP_PATH_RATE 0.1: a WideResNetBackbone has no stochastic depth"),
        ("NORM", "", "^MODEL.BACKBONE.NORM '': expected FrozenBN, BN or SyncBN"),
    ],
)
def test_unsupported_options_are_refused_by_key(key, value, message):
    cfg = make_config(2, "MODEL.BACKBONE.VARIANT", "wrn38", f"MODEL.BACKBONE.{key}", value)
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        WideResNetBackbone(cfg, ShapeSpec(channels=3))
