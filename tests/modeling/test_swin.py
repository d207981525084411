"""Swin Transformer against timm and transformers, also at sizes that they do not support."""

import re

import pytest
import torch

from segzoo.checkpoint import load_checkpoint
from segzoo.modeling.backbones.swin import (
    VARIANTS,
    SwinStage,
    SwinTransformer,
    SwinVariant,
    WindowAttention,
    seam_penalty,
)
from tests.modeling.modeling_helpers import published_names, relative_difference, shake

SMALL = SwinVariant(embed_dim=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=7)


def small_swin(window_size: int = 7, **keywords) -> SwinTransformer:
    torch.manual_seed(0)
    variant = SwinVariant(SMALL.embed_dim, SMALL.depths, SMALL.num_heads, window_size)
    return shake(SwinTransformer(variant=variant, **keywords)).eval()


@pytest.mark.parametrize("window_size", [4, 7, 12])
@pytest.mark.parametrize("size", [(64, 96), (33, 130)])
def test_features_equal_those_of_transformers_for_any_size_and_window(window_size, size):
    transformers = pytest.importorskip("transformers")
    config = transformers.MaskFormerSwinConfig(
        embed_dim=SMALL.embed_dim,
        depths=list(SMALL.depths),
        num_heads=list(SMALL.num_heads),
        window_size=window_size,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    torch.manual_seed(0)
    peer = shake(transformers.MaskFormerSwinBackbone(config)).eval()
    state = {f"model.pixel_level_module.encoder.{key}": value for key, value in peer.state_dict().items()}
    state = {key.removeprefix("backbone."): value for key, value in published_names(state).items()}
    backbone = small_swin(window_size)
    backbone.load_state_dict(state, strict=True)
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        features, expected = backbone(image), peer(image).feature_maps
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for feature, expected_feature in zip(features.values(), expected, strict=True):
        assert relative_difference(feature, expected_feature) < 1e-5


def test_features_equal_those_of_timm_where_windows_divide_the_map():
    timm = pytest.importorskip("timm")
    peer = timm.create_model(
        "swin_tiny_patch4_window7_224",
        pretrained=False,
        features_only=True,
        always_partition=True,
        img_size=224,
    ).eval()
    backbone = SwinTransformer(variant=VARIANTS["tiny"]).eval()
    state = {}
    for key, value in shake(peer).state_dict().items():
        key = re.sub(r"^layers_(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", key)
        state[re.sub(r"^layers_(\d)", r"layers.\1", key)] = value
    leftovers = backbone.load_state_dict(state, strict=False)
    assert leftovers.unexpected_keys == []
    assert all(re.match(r"norm[0-3]\.", key) for key in leftovers.missing_keys)
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        features, expected = backbone(image), peer(image)
        for index, (feature, expected_feature) in enumerate(zip(features.values(), expected, strict=True)):
            normed = getattr(backbone, f"norm{index}")(expected_feature).permute(0, 3, 1, 2)
            assert relative_difference(feature, normed) < 1e-5


def test_timm_imagenet_file_gives_timms_features(tmp_path):
    swin_transformer = pytest.importorskip("timm.models.swin_transformer")
    peer = swin_transformer.SwinTransformer(
        img_size=224, embed_dim=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), always_partition=True
    )
    torch.manual_seed(1)
    peer = shake(peer).eval()
    torch.save(peer.state_dict(), tmp_path / "timm_swin.pth")
    backbone = small_swin()
    report = load_checkpoint(backbone, tmp_path / "timm_swin.pth")
    assert report.source == "timm Swin ImageNet"
    assert {key.split(".")[0] for key in report.reinitialized} == {"norm0", "norm1", "norm2", "norm3"}
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        features = backbone(image)
        stages = peer.forward_intermediates(image, intermediates_only=True)
        for index, (feature, stage) in enumerate(zip(features.values(), stages, strict=True)):
            normed = getattr(backbone, f"norm{index}")(stage.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            assert relative_difference(feature, normed) < 1e-5


def test_seam_penalty_separates_tokens_joined_by_the_shift():
    # Windows of 2 over 4 x 2, shifted by 1: the second column comes from the other end; in the rows
    # the first window has rows 1 and 2, the second row 3 and, from the other end, row 0.
    penalty = seam_penalty(4, 2, 2, torch.device("cpu"))
    assert penalty.shape == (2, 1, 4, 4)
    same_column = [[0, -100, 0, -100], [-100, 0, -100, 0], [0, -100, 0, -100], [-100, 0, -100, 0]]
    assert penalty[0, 0].tolist() == same_column
    assert penalty[1, 0].tolist() == [[0 if i == j else -100 for j in range(4)] for i in range(4)]


def test_res2_does_not_depend_on_distant_pixels():
    backbone = small_swin(window_size=4)
    image = torch.randn(1, 3, 128, 128)
    changed = image.clone()
    changed[..., -16:, -16:] += 1
    with torch.no_grad():
        difference = (backbone(image)["res2"] - backbone(changed)["res2"]).abs().amax(dim=1)[0]
    # One plain window of 4 patches, then one shifted by 2, reach 2 patches beyond the changed window.
    assert difference[-6:, -6:].min() > 0
    assert difference[:-6].max() == 0
    assert difference[:, :-6].max() == 0


def test_drop_path_rate_grows_linearly_to_the_last_block_and_is_off_in_eval():
    backbone = small_swin(drop_path_rate=0.35)
    rates = [block.drop_path.rate for stage in backbone.layers for block in stage.blocks]
    assert rates == pytest.approx([0.05 * index for index in range(8)])
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(backbone(image)["res5"], backbone(image)["res5"])
        backbone.train()
        results = torch.stack([backbone(image)["res5"] for _ in range(8)])
    assert results.std(dim=0).max() > 0


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("window", [3, 4, 7])
def test_a_bias_with_aligned_rows_is_the_bias_and_attends_alike(window, shifted):
    """CUDA's kernels want rows of eight elements; on a CPU they are not made."""
    torch.manual_seed(0)
    layer, tokens = WindowAttention(24, 3, window).double(), window * window
    torch.nn.init.normal_(layer.relative_position_bias_table)
    seam = seam_penalty(2 * window, 2 * window, window, torch.device("cpu")) if shifted else None
    expected = layer.bias(8, seam)
    aligned = layer.bias(8, seam, 8)
    assert all(stride % 8 == 0 for stride in aligned[..., :tokens].stride()[:-1])
    assert torch.equal(aligned[..., :tokens], expected)
    # Of each pair of tokens, from the table's rows by their distance.
    row, column = torch.arange(tokens) // window, torch.arange(tokens) % window
    index = (row[:, None] - row + window - 1) * (2 * window - 1) + column[:, None] - column + window - 1
    table = layer.relative_position_bias_table[index.flatten()].view(tokens, tokens, 3).permute(2, 0, 1)
    for number, bias in enumerate(expected):
        added = seam[number % len(seam)].double() if shifted else 0
        torch.testing.assert_close(bias, table + added, rtol=0, atol=0)


def test_the_penalty_of_the_last_size_is_kept():
    stage = SwinStage(8, 2, 4, [0.0, 0.0], downsample=False)
    with torch.no_grad():
        first = stage.seam(torch.zeros(1, 6, 9, 8))
        assert stage.seam(torch.zeros(2, 6, 9, 8)) is first
        other = stage.seam(torch.zeros(1, 9, 6, 8))
    assert torch.equal(first, seam_penalty(6, 9, 4, torch.device("cpu")))
    assert torch.equal(other, seam_penalty(9, 6, 4, torch.device("cpu")))
    with torch.inference_mode():
        stage.seam(torch.zeros(1, 5, 5, 8))
    assert torch.equal(stage.seam(torch.zeros(1, 9, 6, 8)), other)
    assert list(stage.state_dict()) == [name for name, _ in stage.named_parameters()]
