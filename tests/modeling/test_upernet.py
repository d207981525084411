"""UPerNet against the published sizes, mmsegmentation and transformers, each with its own files."""

import re

import pytest
import torch
from torch import nn

from segzoo.modeling.backbones import swin
from segzoo.modeling.backbones.swin import SwinVariant
from segzoo.projects.upernet.key_map import reorder_merged_patches
from tests.modeling.modeling_helpers import published_names, random_image, relative_difference, shake
from tests.modeling.peers import build_mmseg
from tests.modeling.pixel_model_helpers import (
    count_operations,
    count_parameters,
    load_published,
    normalized,
    pixel_model,
    unallocated_model,
)

# Change of random networks' outputs under an input noise of one part in a million: transformers, ResNets.
FLOOR = 2e-5
RESNET_FLOOR = 5e-4
SIZES = [(64, 96), (70, 101)]
SWIN = ["MODEL.BACKBONE.NAME", "SwinTransformer", "MODEL.BACKBONE.VARIANT"]
SMALL = SwinVariant(embed_dim=24, depths=(1, 2, 2, 1), num_heads=(1, 2, 3, 6), window_size=7)


@pytest.fixture
def small_swin(monkeypatch):
    monkeypatch.setitem(swin.VARIANTS, "small_for_tests", SMALL)
    return [*SWIN, "small_for_tests", "MODEL.SEM_SEG_HEAD.CONVS_DIM", 64, "MODEL.AUX_HEAD.CONVS_DIM", 32]


def mmseg_upernet(backbone: dict, channels: list[int], width: int, auxiliary_width: int) -> nn.Module:
    head = {"num_classes": 11, "norm_cfg": {"type": "BN"}, "align_corners": False}
    torch.manual_seed(1)
    peer = build_mmseg(
        {
            "type": "EncoderDecoder",
            "backbone": backbone,
            "decode_head": {
                "type": "UPerHead",
                "in_channels": channels,
                "in_index": [0, 1, 2, 3],
                "channels": width,
                **head,
            },
            "auxiliary_head": {
                "type": "FCNHead",
                "in_channels": channels[2],
                "in_index": 2,
                "channels": auxiliary_width,
                "num_convs": 1,
                "concat_input": False,
                **head,
            },
        }
    )
    return shake(peer)


def both_heads(model: nn.Module, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of the head and of the auxiliary head for one image."""
    with torch.no_grad():
        logits = model.raw_outputs([{"image": image}])["sem_seg_logits"]
        features = model.backbone(normalized(model, image))
        return logits, model.auxiliary_head(features)["logits"]


def assert_equal_to_mmsegmentation(model: nn.Module, peer: nn.Module, floor: float) -> None:
    for size in SIZES:
        image = random_image(*size)
        logits, auxiliary = both_heads(model, image)
        with torch.no_grad():
            features = peer.extract_feat(normalized(model, image))
            assert relative_difference(logits, peer.decode_head(features)) < floor
            assert relative_difference(auxiliary, peer.auxiliary_head(features)) < floor


@pytest.mark.parametrize(
    ("backbone", "variant", "millions", "billions"),
    [
        ("CSWinTransformer", "tiny", 52.12, 962.4),
        ("CSWinTransformer", "small", 64.44, 1031.5),
        ("CSWinTransformer", "base", 109.04, 1227.8),
        ("SwinTransformer", "tiny", 59.94, 945),
        ("SwinTransformer", "small", 81.26, 1038),
        ("SwinTransformer", "base", 121.28, 1188),
    ],
)
def test_parameters_and_operations_are_the_published_ones(backbone, variant, millions, billions):
    overrides = ["MODEL.BACKBONE.NAME", backbone, "MODEL.BACKBONE.VARIANT", variant]
    model = unallocated_model("upernet", 150, *overrides)
    assert round(count_parameters(model), 2) == millions
    assert count_operations(model, (512, 2048)) == pytest.approx(billions, rel=0.05)


def test_raw_outputs_equal_those_of_mmsegmentation_from_its_swin_files(small_swin, tmp_path):
    backbone = {
        "type": "SwinTransformer",
        "embed_dims": SMALL.embed_dim,
        "depths": SMALL.depths,
        "num_heads": SMALL.num_heads,
        "window_size": 7,
        "norm_cfg": {"type": "LN"},
    }
    peer = mmseg_upernet(backbone, [24, 48, 96, 192], 64, 32)
    model = pixel_model("upernet", 11, *small_swin).eval()
    assert load_published(model, peer.state_dict(), tmp_path).source == "mmsegmentation UPerNet Swin"
    assert_equal_to_mmsegmentation(model, peer, FLOOR)


def test_raw_outputs_equal_those_of_mmsegmentation_from_its_resnet_files(tmp_path):
    peer = mmseg_upernet({"type": "ResNet", "depth": 18}, [64, 128, 256, 512], 64, 32)
    overrides = ["MODEL.BACKBONE.NAME", "ResNetBackbone", "MODEL.BACKBONE.VARIANT", "r18"]
    overrides += ["MODEL.BACKBONE.NORM", "BN"]
    overrides += ["MODEL.SEM_SEG_HEAD.CONVS_DIM", 64, "MODEL.AUX_HEAD.CONVS_DIM", 32]
    model = pixel_model("upernet", 11, *overrides).eval()
    assert load_published(model, peer.state_dict(), tmp_path).source == "mmsegmentation UPerNet ResNet"
    assert_equal_to_mmsegmentation(model, peer, RESNET_FLOOR)


def test_files_with_the_models_backbone_names_and_mmsegmentations_head_names_load(tmp_path):
    # Like CSWin's official files, which were made with mmsegmentation.
    cswin = ["MODEL.BACKBONE.NAME", "CSWinTransformer", "MODEL.BACKBONE.VARIANT", "tiny"]
    cswin += ["MODEL.SEM_SEG_HEAD.CONVS_DIM", 64, "MODEL.AUX_HEAD.CONVS_DIM", 32]
    backbone = shake(pixel_model("upernet", 11, *cswin, seed=1).backbone).eval()
    peer = mmseg_upernet({"type": "ResNet", "depth": 18}, [64, 128, 256, 512], 64, 32)
    state = {key: value for key, value in peer.state_dict().items() if not key.startswith("backbone.")}
    state |= {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    model = pixel_model("upernet", 11, *cswin).eval()
    assert load_published(model, state, tmp_path).source == "UPerNet"
    image = random_image(70, 101)
    with torch.no_grad():
        logits = model.raw_outputs([{"image": image}])["sem_seg_logits"]
        expected = peer.decode_head(list(backbone(normalized(model, image)).values()))
    assert relative_difference(logits, expected) < FLOOR


def hugging_face_upernet() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.UperNetConfig(
        backbone_config=transformers.SwinConfig(
            embed_dim=SMALL.embed_dim,
            depths=list(SMALL.depths),
            num_heads=list(SMALL.num_heads),
            window_size=7,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        hidden_size=64,
        auxiliary_channels=32,
        num_labels=11,
    )
    return shake(transformers.UperNetForSemanticSegmentation(config).eval())


def official_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename weights from transformers' to the official Swin names."""
    backbone = {
        "model.pixel_level_module.encoder." + key.removeprefix("backbone."): value
        for key, value in state.items()
        if key.startswith("backbone.") and "swin.layernorm" not in key
    }
    renamed = {}
    for key, value in published_names(backbone).items():
        stage = re.fullmatch(r"(backbone\.)hidden_states_norms\.stage(\d)\.(.*)", key)
        renamed[f"backbone.norm{int(stage[2]) - 1}.{stage[3]}" if stage else key] = value
    for key, value in state.items():
        if not key.startswith("backbone."):
            renamed[key.replace("batch_norm", "bn").replace("classifier", "conv_seg")] = value
    return renamed


@pytest.mark.parametrize("layout", ["official", "transformers"])
def test_raw_outputs_equal_those_of_transformers_from_files_of_both_layouts(layout, small_swin, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    peer = hugging_face_upernet()
    peer.save_pretrained(tmp_path)
    state = safetensors.load_file(tmp_path / "model.safetensors")
    state = official_names(state) if layout == "official" else state
    model = pixel_model("upernet", 11, *small_swin).eval()
    report = load_published(model, state, tmp_path)
    assert report.source == {"official": "UPerNet", "transformers": "Hugging Face UperNet Swin"}[layout]
    for size in SIZES:
        image = random_image(*size)
        logits, auxiliary = both_heads(model, image)
        with torch.no_grad():
            features = peer.backbone(normalized(model, image)).feature_maps
            assert relative_difference(logits, peer.decode_head(features)) < FLOOR
            assert relative_difference(auxiliary, peer.auxiliary_head(features)) < FLOOR


def test_merged_patches_are_reordered_from_unfolded_ones_to_the_official_order():
    image = torch.arange(2 * 2 * 2.0).view(1, 2, 2, 2)  # two channels of 2 x 2 pixels
    unfolded = nn.functional.unfold(image, kernel_size=2, stride=2).flatten()
    corners = [image[0, :, row, column] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
    assert torch.equal(reorder_merged_patches(unfolded), torch.cat(corners))


@pytest.mark.parametrize(
    "overrides",
    [
        ["MODEL.BACKBONE.NAME", "CSWinTransformer", "MODEL.BACKBONE.VARIANT", "tiny"],
        ["MODEL.BACKBONE.NAME", "VOLO", "MODEL.BACKBONE.VARIANT", "d1"],
        ["MODEL.BACKBONE.NAME", "MixTransformer", "MODEL.BACKBONE.VARIANT", "b0"],
        ["MODEL.BACKBONE.NAME", "TimmBackbone", "MODEL.BACKBONE.VARIANT", "convnext_atto"],
    ],
)
def test_any_backbone_trains_under_the_head(overrides):
    narrow = ["MODEL.SEM_SEG_HEAD.CONVS_DIM", 16, "MODEL.AUX_HEAD.CONVS_DIM", 16]
    narrow += ["MODEL.SEM_SEG_HEAD.NORM", "BN"]
    model = pixel_model("upernet", 4, *overrides, *narrow)
    labels = torch.randint(0, 4, (64, 96))
    batch = [{"image": random_image(64, 96, seed=seed), "sem_seg": labels} for seed in range(2)]
    losses = model(batch)
    assert sorted(losses) == ["loss_sem_seg", "loss_sem_seg_auxiliary"]
    # ln 4 for an untrained classifier, and 0.4 of that.
    assert losses["loss_sem_seg"].item() == pytest.approx(1.386, abs=0.2)
    assert losses["loss_sem_seg_auxiliary"].item() == pytest.approx(0.4 * 1.386, abs=0.1)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
