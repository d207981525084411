"""Mask2Former gives what an independent implementation gives with the same weights and input."""

import re

import pytest
import torch
from modeling_helpers import make_model, random_image, relative_difference, shake

from segzoo.checkpoint import load_checkpoint

transformers = pytest.importorskip("transformers")

# transformers' names -> published names, applied before those that MaskFormer shares.
RENAME = (
    (r"^model\.pixel_level_module\.encoder\.(swin\.)?", "backbone."),
    (r"^backbone\.embeddings\.patch_embeddings\.projection\.", "backbone.patch_embed.proj."),
    (r"^backbone\.embeddings\.norm\.", "backbone.patch_embed.norm."),
    (r"^backbone\.encoder\.layers\.", "backbone.layers."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.relative_position_bias\.", ".attn."),
    (r"\.attention\.([qkv])_proj\.", r".attn.qkv.\1."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"^backbone\.hidden_states_norms\.stage(\d)\.", lambda match: f"backbone.norm{int(match[1]) - 1}."),
    (r"^model\.pixel_level_module\.decoder\.", "sem_seg_head.pixel_decoder."),
    (r"\.pixel_decoder\.input_projections\.", ".pixel_decoder.input_proj."),
    (r"\.pixel_decoder\.level_embed$", ".pixel_decoder.transformer.level_embed"),
    (r"\.pixel_decoder\.encoder\.", ".pixel_decoder.transformer.encoder."),
    (r"(encoder\.layers\.\d)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"(encoder\.layers\.\d)\.final_layer_norm\.", r"\1.norm2."),
    (r"(pixel_decoder\.transformer\.encoder\.layers\.\d)\.(?:mlp\.)?fc", r"\1.linear"),
    (r"\.adapter_1\.0\.", ".adapter_1."),
    (r"\.adapter_1\.1\.", ".adapter_1.norm."),
    (r"\.layer_1\.0\.", ".layer_1."),
    (r"\.layer_1\.1\.", ".layer_1.norm."),
    (r"\.mask_projection\.", ".mask_features."),
    (r"^class_predictor\.", "sem_seg_head.predictor.class_embed."),
    (r"^model\.transformer_module\.", "sem_seg_head.predictor."),
    (r"\.decoder\.layers\.(\d)\.self_attn_layer_norm\.", r".transformer_self_attention_layers.\1.norm."),
    (r"\.decoder\.layers\.(\d)\.self_attn\.([qkv])_proj\.", r".decoder.layers.\1.self_attn.in_proj_\2."),
    (r"\.decoder\.layers\.(\d)\.self_attn\.", r".transformer_self_attention_layers.\1.self_attn."),
    (r"\.decoder\.layers\.(\d)\.cross_attn_layer_norm\.", r".transformer_cross_attention_layers.\1.norm."),
    (r"\.decoder\.layers\.(\d)\.cross_attn\.", r".transformer_cross_attention_layers.\1.multihead_attn."),
    (r"\.decoder\.layers\.(\d)\.final_layer_norm\.", r".transformer_ffn_layers.\1.norm."),
    (r"\.decoder\.layers\.(\d)\.(?:mlp\.)?fc", r".transformer_ffn_layers.\1.linear"),
    (r"\.decoder\.layernorm\.", ".decoder_norm."),
    (r"\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.", r".mask_embed.layers.\1."),
    (r"\.queries_embedder\.", ".query_embed."),
    (r"\.queries_features\.", ".query_feat."),
    (r"\.input_projections\.", ".input_proj."),
)


def mask2former_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for key, value in state.items():
        if key.startswith("criterion.") or ".swin.layernorm." in key:
            continue
        for pattern, replacement in RENAME:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    for key in [key for key in renamed if re.search(r"\.(qkv\.|in_proj_)q\.", key)]:
        stem, kind = re.fullmatch(r"(.*\.(?:qkv|in_proj))[._]q\.(weight|bias)", key).groups()
        parts = [renamed.pop(re.sub(r"q\.(weight|bias)$", rf"{role}.{kind}", key)) for role in "qkv"]
        renamed[f"{stem}{'.' if stem.endswith('qkv') else '_'}{kind}"] = torch.cat(parts)
    return renamed


def make_pair():
    model = make_model(
        11,
        *("MODEL.BACKBONE.NAME", "SwinTransformer", "MODEL.BACKBONE.VARIANT", "tiny"),
        *("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "MSDeformAttnPixelDecoder"),
        *("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 6, "MODEL.SEM_SEG_HEAD.TOP_DOWN_UPSAMPLE", "bilinear"),
        *("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MultiScaleMaskedTransformerDecoder"),
        *("MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE", "multi_scale_pixel_decoder"),
        *("MODEL.MASK_FORMER.DEC_LAYERS", 9, "MODEL.MASK_FORMER.DROPOUT", 0.0),
        *("MODEL.MASK_FORMER.MASK_LOSS", "bce", "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", 12544),
    ).eval()
    torch.manual_seed(1)
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(
            embed_dim=96,
            depths=[2, 2, 6, 2],
            num_heads=[3, 6, 12, 24],
            window_size=7,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        num_labels=11,
    )
    peer = shake(transformers.Mask2FormerForUniversalSegmentation(config).eval())
    return model, peer


# 96 x 128 is a multiple of 32; the sides of 64 x 160 differ in every level's width and height.
@pytest.mark.parametrize("size", [(96, 128), (64, 160)])
def test_raw_outputs_equal_those_of_transformers(size, tmp_path):
    model, peer = make_pair()
    torch.save({"model": mask2former_names(peer.state_dict())}, tmp_path / "mask2former.pth")
    report = load_checkpoint(model, tmp_path / "mask2former.pth")
    assert report.complete
    assert not report.unexpected

    image = random_image(*size)
    with torch.no_grad():
        outputs = model.raw_outputs([{"image": image}])
        expected = peer(((image - model.pixel_mean) / model.pixel_std)[None])

    assert relative_difference(outputs["pred_logits"], expected.class_queries_logits) < 2e-5
    assert relative_difference(outputs["pred_masks"], expected.masks_queries_logits) < 2e-5
