"""MiT against transformers and mmsegmentation, from files in their layouts."""

import pytest
import torch
from torch import nn

from segzoo.checkpoint import load_checkpoint
from segzoo.modeling.backbones.mit import MIT_VARIANTS, MixTransformer, PyramidVariant
from tests.modeling.modeling_helpers import relative_difference, shake
from tests.modeling.peers import mmseg_models

SMALL = PyramidVariant((8, 16, 40, 64), (2, 1, 2, 1))
SIZES = [(64, 96), (33, 47), (101, 64)]


class Model(nn.Module):
    """A model with the weight names of a complete one."""

    def __init__(self, variant: PyramidVariant = SMALL):
        super().__init__()
        torch.manual_seed(1)
        self.backbone = MixTransformer(variant=variant)


def set_published_epsilons(peer: nn.Module, after_convolution: tuple[str, ...]) -> None:
    """Set 1e-5 in norms after a convolution, 1e-6 in all others; peers have one value for all."""
    for name, module in peer.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5 if any(part in name for part in after_convolution) else 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_features_equal_those_of_transformers_loaded_from_its_own_file(size, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("safetensors")
    config = transformers.SegformerConfig(
        depths=list(SMALL.depths), hidden_sizes=list(SMALL.channels), num_attention_heads=[1, 2, 5, 8]
    )
    peer = shake(transformers.SegformerForImageClassification(config)).eval()
    peer.save_pretrained(tmp_path)
    model = Model().eval()
    report = load_checkpoint(model, tmp_path / "model.safetensors")
    assert report.complete
    assert report.source == "Hugging Face MiT ImageNet"
    assert report.extras == ["classifier.bias", "classifier.weight"]
    set_published_epsilons(peer, ("patch_embeddings", "sequence_reduction"))
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        features = model.backbone(image)
        expected = peer.segformer(image, output_hidden_states=True).hidden_states
    for feature, expected_feature in zip(features.values(), expected, strict=True):
        assert relative_difference(feature, expected_feature) < 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_features_equal_those_of_mmsegmentation_loaded_from_its_own_file(size, tmp_path):
    backbones = mmseg_models().backbones
    peer = backbones.MixVisionTransformer(
        embed_dims=8, num_layers=list(SMALL.depths), num_heads=[1, 2, 5, 8], sr_ratios=[8, 4, 2, 1]
    )
    shake(peer).eval()
    path = tmp_path / "mit.pth"
    torch.save({"state_dict": peer.state_dict(), "meta": {}}, path)
    model = Model().eval()
    report = load_checkpoint(model, path)
    assert report.complete
    assert report.source == "mmsegmentation MiT ImageNet"
    assert not report.extras
    assert not report.resized
    set_published_epsilons(peer, (".0.norm", "attn.norm"))
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        features, expected = model.backbone(image), peer(image)
    for feature, expected_feature in zip(features.values(), expected, strict=True):
        assert relative_difference(feature, expected_feature) < 1e-5


def test_norms_have_the_published_epsilons():
    backbone = MixTransformer(variant=SMALL)
    for name, module in backbone.named_modules():
        if isinstance(module, nn.LayerNorm):
            after_convolution = name.startswith("patch_embed") or name.endswith("attn.norm")
            assert module.eps == (1e-5 if after_convolution else 1e-6), name


@pytest.mark.parametrize(
    ("variant", "millions"),
    # SegFormer, table 1: encoder sizes.
    [("b0", 3.4), ("b1", 13.1), ("b2", 24.2), ("b3", 44.0), ("b4", 60.8), ("b5", 81.4)],
)
def test_encoders_have_the_published_sizes(variant, millions):
    with torch.device("meta"):
        backbone = MixTransformer(variant=MIT_VARIANTS[variant])
    count = sum(parameter.numel() for parameter in backbone.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.1)


def test_drop_path_rate_grows_linearly_to_the_last_block():
    backbone = MixTransformer(variant=SMALL, drop_path_rate=0.5)
    blocks = [block for index in range(1, 5) for block in getattr(backbone, f"block{index}")]
    assert [block.drop_path.rate for block in blocks] == pytest.approx([0.1 * index for index in range(6)])


def test_a_map_smaller_than_a_window_of_the_reduction_is_padded_with_zeros():
    # A 2 x 2 map under a reduction of 8 is the corner of an 8 x 8 map of zeros: one key and value for all.
    attention = shake(MixTransformer(variant=SMALL).block1[0].attn).eval()
    x = torch.randn(1, 2, 2, 8)
    with torch.no_grad():
        key_input = attention.norm(
            torch.einsum("nhwc,dchw->nd", x, attention.sr.weight[:, :, :2, :2]) + attention.sr.bias
        )
        value = attention.kv(key_input)[:, 8:]
        expected = attention.proj(value)
        actual = attention(x)
    torch.testing.assert_close(actual, expected[:, None, None].expand(1, 2, 2, 8))
