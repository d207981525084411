"""Key maps of Mask2Former's published files and of Hugging Face's conversions.

The authors' files keep the `pixel_decoder.` prefix, but some name the learned query features `static_query`,
as an early version of the method did.
"""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_transformer import HF_SWIN, HF_SWIN_JOINS

_CLASSIFIER = (r"(^|\.)predictor\.class_embed\.(weight|bias)$",)
_QUERIES = (r"(^|\.)predictor\.query_(feat|embed)\.weight$",)

MASK2FORMER = KeyMap(
    name="Mask2Former",
    recognize=(r"^sem_seg_head\.predictor\.transformer_cross_attention_layers\.",),
    rules=(
        (r"^sem_seg_head\.(?!(?:pixel_decoder|predictor)\.)", "sem_seg_head.pixel_decoder."),
        (r"\.predictor\.static_query\.", ".predictor.query_feat."),
    ),
    classifier=_CLASSIFIER,
    queries=_QUERIES,
)

_HF_PIXEL_DECODER = (
    (r"^model\.pixel_level_module\.decoder\.", "sem_seg_head.pixel_decoder."),
    (r"\.pixel_decoder\.input_projections\.", ".pixel_decoder.input_proj."),
    (r"\.pixel_decoder\.(encoder\.|level_embed$)", r".pixel_decoder.transformer.\1"),
    (r"(pixel_decoder\..*)\.self_attn_layer_norm\.", r"\1.norm1."),
    (r"(pixel_decoder\..*)\.final_layer_norm\.", r"\1.norm2."),
    (r"(pixel_decoder\..*)\.fc([12])\.", r"\1.linear\2."),
    (r"\.(adapter|layer)_(\d)\.0\.", r".\1_\2."),
    (r"\.(adapter|layer)_(\d)\.1\.", r".\1_\2.norm."),
    (r"\.mask_projection\.", ".mask_features."),
)
_HF_DECODER = (
    (r"^class_predictor\.", "sem_seg_head.predictor.class_embed."),
    (r"^model\.transformer_module\.", "sem_seg_head.predictor."),
    *(
        (rf"\.decoder\.layers\.(\d+)\.{name}\.", rf".{ours}.\1.{part}.")
        for name, ours, part in (
            ("self_attn_layer_norm", "transformer_self_attention_layers", "norm"),
            ("self_attn", "transformer_self_attention_layers", "self_attn"),
            ("cross_attn_layer_norm", "transformer_cross_attention_layers", "norm"),
            ("cross_attn", "transformer_cross_attention_layers", "multihead_attn"),
            ("final_layer_norm", "transformer_ffn_layers", "norm"),
            ("fc1", "transformer_ffn_layers", "linear1"),
            ("fc2", "transformer_ffn_layers", "linear2"),
        )
    ),
    (r"\.decoder\.layernorm\.", ".decoder_norm."),
    (r"\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.", r".mask_embed.layers.\1."),
    (r"\.queries_embedder\.", ".query_embed."),
    (r"\.queries_features\.", ".query_feat."),
    (r"\.predictor\.input_projections\.", ".predictor.input_proj."),
)

HUGGING_FACE = KeyMap(
    name="Hugging Face Mask2Former",
    recognize=(r"^model\.transformer_module\.queries_features\.", r"^model\.pixel_level_module\.decoder\."),
    rules=(
        (r"^model\.pixel_level_module\.encoder\.", "backbone."),
        *HF_SWIN,
        *_HF_PIXEL_DECODER,
        *_HF_DECODER,
    ),
    extras=(r"\.encoder\.swin\.layernorm\.", r"^criterion\."),
    classifier=_CLASSIFIER,
    queries=_QUERIES,
    joins=(
        *HF_SWIN_JOINS,
        (tuple(rf"\.self_attn\.{role}_proj\." for role in "qkv"), ".self_attn.in_proj_"),
    ),
)

register_key_map(MASK2FORMER)
register_key_map(HUGGING_FACE)
