"""The masked-attention decoder gives what an independent implementation gives with the same weights."""

import re

import pytest
import torch

from segzoo.config.load import new_config
from segzoo.projects.mask2former.transformer_decoder import MultiScaleMaskedTransformerDecoder, attention_mask
from segzoo.projects.maskformer.transformer_decoder import MaskFormerTransformerDecoder
from tests.modeling.modeling_helpers import relative_difference, shake

SIZES = [(2, 3), (5, 4), (9, 8)]
RENAME = (
    (r"^decoder\.layers\.(\d)\.self_attn_layer_norm\.", r"transformer_self_attention_layers.\1.norm."),
    (r"^decoder\.layers\.(\d)\.self_attn\.", r"transformer_self_attention_layers.\1.self_attn."),
    (r"^decoder\.layers\.(\d)\.cross_attn_layer_norm\.", r"transformer_cross_attention_layers.\1.norm."),
    (r"^decoder\.layers\.(\d)\.cross_attn\.", r"transformer_cross_attention_layers.\1.multihead_attn."),
    (r"^decoder\.layers\.(\d)\.final_layer_norm\.", r"transformer_ffn_layers.\1.norm."),
    (r"^decoder\.layers\.(\d)\.fc", r"transformer_ffn_layers.\1.linear"),
    (r"^decoder\.layernorm\.", "decoder_norm."),
    (r"^decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.", r"mask_embed.layers.\1."),
    (r"^queries_embedder\.", "query_embed."),
    (r"^queries_features\.", "query_feat."),
    (r"^input_projections\.", "input_proj."),
)


def published_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in RENAME:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    for key in [key for key in renamed if ".q_proj." in key]:
        parts = [renamed.pop(key.replace(".q_proj.", f".{role}_proj.")) for role in "qkv"]
        renamed[key.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return renamed


@pytest.mark.parametrize(("channels", "pre_norm"), [(32, False), (24, False), (32, True)])
def test_masks_of_every_layer_equal_those_of_transformers(channels, pre_norm):
    transformers = pytest.importorskip("transformers")
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerTransformerModule

    config = transformers.Mask2FormerConfig(
        decoder_layers=5,  # one more, because it counts the prediction before the first layer
        num_queries=7,
        hidden_dim=32,
        mask_feature_size=16,
        num_attention_heads=4,
        dim_feedforward=48,
        pre_norm=pre_norm,
    )
    torch.manual_seed(0)
    peer = shake(Mask2FormerTransformerModule(in_features=channels, config=config).eval())
    decoder = MultiScaleMaskedTransformerDecoder(
        in_channels=[channels] * 3,
        num_classes=3,
        hidden_dim=32,
        num_queries=7,
        num_heads=4,
        feedforward_dim=48,
        num_layers=4,
        pre_norm=pre_norm,
        mask_dim=16,
    )
    leftovers = decoder.load_state_dict(published_names(peer.state_dict()), strict=False)
    assert leftovers.unexpected_keys == []
    assert leftovers.missing_keys == ["class_embed.weight", "class_embed.bias"]

    generator = torch.Generator().manual_seed(1)
    scales = [torch.randn(2, channels, *size, generator=generator) for size in SIZES]
    mask_features = torch.randn(2, 16, 17, 15, generator=generator)
    with torch.no_grad():
        expected = peer(scales, mask_features, output_hidden_states=True)
        outputs = decoder.train()(scales, mask_features)
        final = decoder.eval()(scales, mask_features)

    layers = [*outputs["aux_outputs"], outputs]
    assert len(layers) == len(expected.masks_queries_logits) == 5
    for layer, expected_masks in zip(layers, expected.masks_queries_logits, strict=True):
        masks = torch.einsum("nqc,nchw->nqhw", layer["mask_embed"], layer["mask_features"])
        assert relative_difference(masks, expected_masks) < 1e-5
    assert relative_difference(final["pred_masks"], expected.masks_queries_logits[-1]) < 1e-5
    assert torch.equal(final["pred_logits"], outputs["pred_logits"])


def test_the_attention_mask_allows_the_foreground_or_every_pixel_if_it_is_empty():
    # One channel, four pixels; the mask logits of the two queries are +features and -features.
    features = torch.tensor([[[[2.0, 1.0], [0.5, 3.0]]], [[[1.0, -1.0], [-2.0, 4.0]]]])
    mask_embed = torch.tensor([[[1.0], [-1.0]], [[1.0], [-1.0]]])
    allowed = attention_mask(mask_embed, features)
    assert allowed.tolist() == [
        [[True, True, True, True], [True, True, True, True]],  # the second query's mask is empty
        [[True, False, False, True], [False, True, True, False]],
    ]


@pytest.mark.parametrize(
    ("decoder", "in_channels"),
    [(MaskFormerTransformerDecoder, 256), (MultiScaleMaskedTransformerDecoder, [256, 256, 256])],
)
def test_keys_that_only_foreign_files_set_reach_the_decoders(decoder, in_channels):
    cfg = new_config()
    with torch.device("meta"):
        plain = decoder(cfg, in_channels)
        cfg.MODEL.MASK_FORMER.PRE_NORM = cfg.MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ = True
        changed = decoder(cfg, in_channels)
    added = dict(changed.named_parameters()).keys() - dict(plain.named_parameters()).keys()
    assert added
    assert all(name.startswith("input_proj.") for name in added)
    modules = [module for module in changed.modules() if hasattr(module, "pre_norm")]
    assert modules
    assert all(module.pre_norm for module in modules)
