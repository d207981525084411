"""Key map of MaskFormer's published files.

The first files name the pixel decoder's layers directly under the head (`sem_seg_head.layer_4.weight`); later
state dicts use `sem_seg_head.pixel_decoder.layer_4.weight`. Neither has a reliable version number, so the
names alone decide.
"""

from segzoo.checkpoint import KeyMap, register_key_map

MASKFORMER = KeyMap(
    name="MaskFormer",
    recognize=(
        r"^sem_seg_head\.predictor\.transformer\.decoder\.",
        r"^sem_seg_head\.(pixel_decoder\.)?mask_features\.",
    ),
    rules=((r"^sem_seg_head\.(?!(?:pixel_decoder|predictor)\.)", "sem_seg_head.pixel_decoder."),),
    classifier=(r"(^|\.)predictor\.class_embed\.(weight|bias)$",),
    queries=(r"(^|\.)predictor\.query_embed\.weight$",),
)

register_key_map(MASKFORMER)
