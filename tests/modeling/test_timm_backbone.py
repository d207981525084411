"""TimmBackbone against timm's own models, with hooks on their stages, and with timm's own files."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import nn

from segzoo.checkpoint import load_checkpoint
from segzoo.engine.distributed.data_parallel import sync_batch_norm_on_cpu
from segzoo.modeling.backbones.timm_backbone import TimmBackbone
from segzoo.utils.errors import InputError
from tests.modeling.modeling_helpers import make_config, relative_difference, shake

timm = pytest.importorskip("timm")

# timm's names of the modules whose outputs are res2 to res5.
STAGES = {
    "resnet50": ("layer1", "layer2", "layer3", "layer4"),
    "convnext_tiny": ("stages.0", "stages.1", "stages.2", "stages.3"),
    "swin_tiny_patch4_window7_224": ("layers.0", "layers.1", "layers.2", "layers.3"),
    "pvt_v2_b2": ("stages.0", "stages.1", "stages.2", "stages.3"),
    "efficientnet_b0": ("blocks.1", "blocks.2", "blocks.4", "blocks.6"),
    "test_resnet": ("layer1", "layer2", "layer3", "layer4"),
    "test_convnext": ("stages.0", "stages.1", "stages.2", "stages.3"),
}
CHANNELS = {
    "resnet50": (256, 512, 1024, 2048),
    "convnext_tiny": (96, 192, 384, 768),
    "swin_tiny_patch4_window7_224": (96, 192, 384, 768),
    "pvt_v2_b2": (64, 128, 320, 512),
    "efficientnet_b0": (24, 40, 112, 320),
}


def hooked_features(peer: nn.Module, stages: tuple[str, ...], image: torch.Tensor) -> list[torch.Tensor]:
    """Return the outputs of the stages of timm's classifier, channels first."""
    outputs = {}
    handles = []
    for stage in stages:

        def keep(module, inputs, output, stage=stage):
            outputs[stage] = output

        handles.append(peer.get_submodule(stage).register_forward_hook(keep))
    with torch.no_grad():
        peer.forward_features(image)
    for handle in handles:
        handle.remove()
    channels_last = type(peer).__name__.startswith("Swin")
    return [outputs[stage].permute(0, 3, 1, 2) if channels_last else outputs[stage] for stage in stages]


def build(variant: str, *overrides: object) -> TimmBackbone:
    cfg = make_config(2, "MODEL.BACKBONE.NAME", "TimmBackbone", "MODEL.BACKBONE.VARIANT", variant, *overrides)
    return TimmBackbone(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize("variant", list(CHANNELS))
def test_features_equal_those_of_timm_with_its_own_file(variant, tmp_path):
    torch.manual_seed(0)
    options = {"strict_img_size": False} if "swin" in variant else {}
    peer = shake(timm.create_model(variant, **options)).eval()
    backbone = build(variant).eval()
    torch.save(peer.state_dict(), tmp_path / "timm.pth")
    report = load_checkpoint(nn.ModuleDict({"backbone": backbone}), tmp_path / "timm.pth")
    assert report.source == "timm"
    assert report.complete
    shapes = backbone.output_shape()
    assert list(shapes) == ["res2", "res3", "res4", "res5"]
    assert tuple(shape.channels for shape in shapes.values()) == CHANNELS[variant]
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32]
    # timm's Swin only accepts whole patches of 4 pixels, the others any size.
    image = torch.randn(1, 3, 70, 37)
    expected = hooked_features(
        peer, STAGES[variant], F.pad(image, (0, 3, 0, 2)) if "swin" in variant else image
    )
    with torch.no_grad():
        features = backbone(image)
    for feature, whole in zip(features.values(), expected, strict=True):
        assert relative_difference(feature, whole) < 2e-5


def test_safetensors_files_and_bare_backbones_load(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    peer = shake(timm.create_model("test_convnext"))
    safetensors.save_file(peer.state_dict(), tmp_path / "model.safetensors")
    backbone = build("test_convnext")
    assert load_checkpoint(backbone, tmp_path / "model.safetensors").complete
    assert torch.equal(backbone.network.stem[0].weight, peer.stem[0].weight)


def test_the_convnext_files_of_its_authors_load_as_timm_reads_them(tmp_path):
    convnext = pytest.importorskip("timm.models.convnext")
    torch.manual_seed(0)
    peer = shake(timm.create_model("test_convnext"))
    state = {}
    for key, value in peer.state_dict().items():
        key = key.replace("head.norm.", "norm.").replace("head.fc.", "head.")
        key = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", key)
        key = key.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".")
        key = key.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        state[key] = value
    assert set(convnext.checkpoint_filter_fn(dict(state), peer)) == set(peer.state_dict())
    torch.save({"model": state}, tmp_path / "convnext.pth")
    backbone = build("test_convnext")
    report = load_checkpoint(nn.ModuleDict({"backbone": backbone}), tmp_path / "convnext.pth")
    assert report.source == "ConvNeXt ImageNet"
    assert report.complete
    for key, value in backbone.network.state_dict().items():
        assert torch.equal(value, peer.state_dict()[key])


def test_a_file_of_another_model_is_refused(tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "timm.pth")
    with pytest.raises(ValueError, match=r"none of its .* has a place|does not fit"):
        load_checkpoint(build("test_convnext"), tmp_path / "timm.pth")


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("variant", ["test_resnet", "test_convnext"])
def test_dilated_models_equal_those_of_timm(variant, output_stride):
    torch.manual_seed(0)
    peer = shake(timm.create_model(variant, output_stride=output_stride)).eval()
    backbone = build(variant, "MODEL.BACKBONE.OUTPUT_STRIDE", output_stride).eval()
    backbone.network.load_state_dict(peer.state_dict(), strict=False)
    strides = [shape.stride for shape in backbone.output_shape().values()]
    assert strides == [min(stride, output_stride) for stride in (4, 8, 16, 32)]
    image = torch.randn(1, 3, 64, 96)
    expected = hooked_features(peer, STAGES[variant], image)
    with torch.no_grad():
        for feature, whole in zip(backbone(image).values(), expected, strict=True):
            assert relative_difference(feature, whole) < 1e-5
    with torch.no_grad():
        image = torch.randn(1, 3, 57, 43)
        expected = hooked_features(peer, STAGES[variant], image)
        for feature, whole in zip(backbone(image).values(), expected, strict=True):
            assert relative_difference(feature, whole) < 1e-5


@pytest.mark.parametrize(
    ("variant", "norm", "name"),
    [
        ("test_resnet", "FrozenBN", "Frozen"),
        ("test_resnet", "SyncBN", "Sync"),
        ("test_resnet", "BN", "BatchNorm"),
        ("test_efficientnet", "FrozenBN", "Frozen"),
        ("test_efficientnet", "SyncBN", "Sync"),
    ],
)
def test_batch_norm_has_the_configured_type_and_computes_the_same(variant, norm, name):
    torch.manual_seed(0)
    peer = shake(timm.create_model(variant)).eval()
    backbone = build(variant, "MODEL.BACKBONE.NORM", norm)
    backbone.network.load_state_dict(peer.state_dict(), strict=False)
    norms = [module for module in backbone.modules() if hasattr(module, "running_mean")]
    assert norms
    assert all(type(module).__name__.startswith(name) for module in norms)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = peer.forward_intermediates(image, intermediates_only=True)[-1]
        assert relative_difference(backbone.eval()(image)["res5"], expected) < 1e-5
        backbone.train()(image)
    unchanged = torch.equal(backbone.network.bn1.running_mean, peer.bn1.running_mean)
    assert unchanged == (norm == "FrozenBN")


def test_stages_after_the_last_output_and_classifiers_are_not_built():
    backbone = build(
        "test_resnet", "MODEL.BACKBONE.OUT_FEATURES", ("res2", "res4"), "MODEL.BACKBONE.NORM", "BN"
    )
    assert list(backbone.output_shape()) == ["res2", "res4"]
    features = backbone.train()(torch.randn(2, 3, 64, 64))
    sum(feature.sum() for feature in features.values()).backward()
    names = [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    assert names == []
    assert not any(name.startswith(("network.layer4", "network.fc")) for name in backbone.state_dict())


@pytest.mark.parametrize("variant", ["test_resnet", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 5])
def test_frozen_stages_have_no_gradient_and_all_others_do(variant, freeze_at):
    stages = {
        "test_resnet": ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4."),
        "test_convnext": ("stem.", "stages.0.", "stages.1.", "stages.2.", "stages.3."),
        "test_efficientnet": ("conv_stem.", "bn1.", "blocks."),
    }[variant]
    last = {0: None, 1: "stem", 2: "res2", 5: "res5"}[freeze_at]
    frozen = {
        "test_resnet": {None: (), "stem": stages[:2], "res2": stages[:3], "res5": stages},
        "test_convnext": {None: (), "stem": stages[:1], "res2": stages[:2], "res5": stages},
        "test_efficientnet": {
            None: (),
            "stem": (*stages[:2], "blocks.0."),
            "res2": (*stages[:2], "blocks.0.", "blocks.1."),
            "res5": stages,
        },
    }[variant][last]
    rate = ("MODEL.BACKBONE.DROP_PATH_RATE", 0.5, "MODEL.BACKBONE.NORM", "BN")
    backbone = build(variant, "MODEL.BACKBONE.FREEZE_AT", freeze_at, *rate).train()
    for name, parameter in backbone.network.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen or ("none",)), name
    statistics = {name: value.clone() for name, value in backbone.network.state_dict().items()}
    image = torch.randn(2, 3, 64, 64)
    first, second = backbone(image)["res5"], backbone(image)["res5"]
    assert torch.equal(first, second) or freeze_at < 5  # no stochastic depth
    for name, value in backbone.network.state_dict().items():
        if name.endswith("running_mean"):
            assert torch.equal(value, statistics[name]) == name.startswith(frozen or ("none",)), name


@pytest.mark.parametrize("variant", ["test_resnet", "test_convnext"])
def test_activation_checkpointing_stores_less_and_leaves_gradients_unchanged(variant):
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    gradients, stored = [], []
    for enabled in (False, True):
        torch.manual_seed(0)
        backbone = build(variant, "MODEL.BACKBONE.CHECKPOINT", enabled).train()
        sizes: list[int] = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = sum((feature**2).mean() for feature in backbone(image).values())
        loss.backward()
        stored.append(sum(sizes))
        gradients.append([parameter.grad for parameter in backbone.parameters()])
    assert stored[1] < 0.7 * stored[0]
    for expected, actual in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected)


def test_batch_norms_on_a_cpu_keep_timms_fused_activations():
    backbone = shake(TimmBackbone(variant="test_efficientnet", norm="SyncBN")).eval()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = backbone(image)["res5"]
        actual = copy.deepcopy(sync_batch_norm_on_cpu(backbone, world_size=1))(image)["res5"]
    assert expected.abs().max() > 0
    torch.testing.assert_close(actual, expected)


def test_stochastic_depth_rises_to_the_configured_rate():
    backbone = build("test_convnext", "MODEL.BACKBONE.DROP_PATH_RATE", 0.4)
    rates = [module.drop_prob for module in backbone.modules() if hasattr(module, "drop_prob")]
    assert max(rates) == pytest.approx(0.4)
    assert rates == sorted(rates)


def test_a_plain_transformer_has_one_stride():
    torch.manual_seed(0)
    peer = shake(timm.create_model("test_vit", dynamic_img_size=True)).eval()
    backbone = build("test_vit", "MODEL.BACKBONE.OUT_FEATURES", ("res4",)).eval()
    backbone.network.load_state_dict(peer.state_dict(), strict=False)
    assert backbone.output_shape() == {"res4": ShapeSpec(channels=64, stride=16)}
    image = torch.randn(1, 3, 64, 96)
    peer.norm = nn.Identity()
    with torch.no_grad():
        tokens = peer.forward_features(image)[:, peer.num_prefix_tokens :]
        expected = tokens.transpose(1, 2).reshape(1, 64, 4, 6)
        assert relative_difference(backbone(image)["res4"], expected) < 1e-5
        assert backbone(torch.randn(1, 3, 33, 50))["res4"].shape[-2:] == (3, 4)


def test_models_with_one_input_size_name_it():
    backbone = build("levit_128s", "MODEL.BACKBONE.OUT_FEATURES", ("res4",), "MODEL.BACKBONE.NORM", "BN")
    height, width = backbone.sizes.only
    assert backbone(torch.randn(1, 3, height, width))["res4"].shape[-2:] == (height // 16, width // 16)
    with pytest.raises(ValueError, match=rf"takes images of {height} x {width} pixels only, not of 64 x 64"):
        backbone(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("variant", "key", "value", "message"),
    [
        (
            "convnext_tinny",
            "NORM",
            "BN",
            r"'convnext_tinny' is not a model of timm .*; did you mean convnext_tiny",
        ),
        (
            "test_vit",
            "NORM",
            "BN",
            r"test_vit has no res2, res3, res5; it has res4 \(stride 16\)",
        ),
        ("pvt_v2_b0", "OUTPUT_STRIDE", 8, r"^MODEL.BACKBONE.OUTPUT_STRIDE 8: pvt_v2_b0 can only have 32"),
        ("test_resnet", "OUTPUT_STRIDE", 4, r"OUTPUT_STRIDE 4: test_resnet can only have 8, 16 or 32"),
        (
            "densenet121",
            "DROP_PATH_RATE",
            0.1,
            r"^MODEL.BACKBONE.DROP_PATH_RATE 0.1: densenet121 has no stochastic depth",
        ),
        (
            "test_resnet",
            "NORM",
            "GN",
            r"^MODEL.BACKBONE.NORM 'GN': a TimmBackbone can have BN, FrozenBN, SyncBN",
        ),
        ("pit_ti_224", "OUT_FEATURES", ("res4",), r"its maps do not have the image's size divided by"),
        ("vgg11", "OUTPUT_STRIDE", 8, r"timm .* cannot build it with .*output_stride"),
    ],
)
def test_unsupported_options_are_refused_by_key(variant, key, value, message):
    with pytest.raises(ValueError, match=message):
        build(variant, f"MODEL.BACKBONE.{key}", value)


def test_unsupported_options_are_refused_by_argument():
    with pytest.raises(InputError, match=r"^output_stride 8: pvt_v2_b0 can only have 32"):
        TimmBackbone(variant="pvt_v2_b0", output_stride=8)
    with pytest.raises(InputError, match=r"^norm 'GN': a TimmBackbone can have BN"):
        TimmBackbone(variant="test_resnet", norm="GN")
    with pytest.raises(InputError, match=r"^out_features: test_vit has no res2"):
        TimmBackbone(variant="test_vit", out_features=("res2",))
