"""The names of weights in Mask2Former's published files.

They keep the `pixel_decoder.` prefix, but some call the learned query features `static_query`, as an early
version of the method did.
"""

from segzoo.checkpoint import KeyMap, register_key_map

MASK2FORMER = KeyMap(
    name="Mask2Former",
    recognise=(r"^sem_seg_head\.predictor\.transformer_cross_attention_layers\.",),
    rules=(
        (r"^sem_seg_head\.(?!(?:pixel_decoder|predictor)\.)", "sem_seg_head.pixel_decoder."),
        (r"\.predictor\.static_query\.", ".predictor.query_feat."),
    ),
    classifier=(r"(^|\.)predictor\.class_embed\.(weight|bias)$",),
)

register_key_map(MASK2FORMER)
