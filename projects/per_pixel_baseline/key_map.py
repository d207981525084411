"""Key maps of MaskFormer's published files of its per-pixel baselines.

As in MaskFormer's files, the first ones name the pixel decoder's layers directly under the head.
"""

from segzoo.checkpoint import KeyMap, register_key_map

_PIXEL_DECODER = (r"^sem_seg_head\.(?!(?:pixel_decoder|predictor)\.)", "sem_seg_head.pixel_decoder.")
_MASK_FEATURES = r"^sem_seg_head\.(pixel_decoder\.)?mask_features\."

BASELINE = KeyMap(
    name="PerPixelBaseline",
    recognize=(r"^sem_seg_head\.predictor\.weight$", _MASK_FEATURES),
    rules=(_PIXEL_DECODER,),
    classifier=(r"^sem_seg_head\.predictor\.(weight|bias)$",),
)

# Here the transformer decoder is the classifier; its queries stand for the classes.
BASELINE_PLUS = KeyMap(
    name="PerPixelBaseline+",
    recognize=(
        r"^sem_seg_head\.predictor\.transformer\.decoder\.",
        r"!^sem_seg_head\.predictor\.class_embed\.",
        _MASK_FEATURES,
    ),
    rules=(_PIXEL_DECODER, (r"^sem_seg_head\.predictor\.", "sem_seg_head.decoder.")),
    classifier=(r"^sem_seg_head\.decoder\.query_embed\.weight$",),
)

register_key_map(BASELINE)
register_key_map(BASELINE_PLUS)
