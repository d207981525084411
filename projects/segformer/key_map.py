"""Key maps of SegFormer's published files, by code base."""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import MMSEG_CLASSIFIER
from segzoo.checkpoint.rules_transformer import (
    HF_MIT,
    HF_MIT_JOINS,
    MMSEG_MIT,
    MMSEG_MIT_RESIZE,
    MMSEG_MIT_SPLITS,
)

_CLASSIFIER = (r"^sem_seg_head\.predictor\.(weight|bias)$",)

# NVlabs: the backbone has the names of its ImageNet files; levels are counted from 1; mmsegmentation's
# classifier is also present but unused.
NVLABS = KeyMap(
    name="SegFormer",
    recognize=(r"^decode_head\.linear_c1\.proj\.weight$", r"^decode_head\.linear_pred\.weight$"),
    rules=(
        *(
            (rf"^decode_head\.linear_c{level}\.proj\.", f"sem_seg_head.projections.{level - 1}.")
            for level in range(1, 5)
        ),
        (r"^decode_head\.linear_fuse\.conv\.", "sem_seg_head.fuse."),
        (r"^decode_head\.linear_fuse\.bn\.", "sem_seg_head.fuse.norm."),
        (r"^decode_head\.linear_pred\.", "sem_seg_head.predictor."),
    ),
    extras=(r"^decode_head\.conv_seg\.",),
    classifier=_CLASSIFIER,
)

HUGGING_FACE = KeyMap(
    name="Hugging Face SegFormer",
    recognize=(r"^segformer\.encoder\.", r"^decode_head\.linear_c\.0\.proj\.weight$"),
    rules=(
        *HF_MIT,
        (r"^decode_head\.linear_c\.(\d)\.proj\.", r"sem_seg_head.projections.\1."),
        (r"^decode_head\.linear_fuse\.", "sem_seg_head.fuse."),
        (r"^decode_head\.batch_norm\.", "sem_seg_head.fuse.norm."),
        (r"^decode_head\.classifier\.", "sem_seg_head.predictor."),
    ),
    classifier=_CLASSIFIER,
    joins=HF_MIT_JOINS,
)

# For MODEL.SEGFORMER.PROJECTION conv.
MMSEGMENTATION = KeyMap(
    name="mmsegmentation SegFormer",
    recognize=(r"^decode_head\.fusion_conv\.conv\.weight$", r"^backbone\.layers\.0\.0\.projection\.weight$"),
    rules=(
        *MMSEG_MIT,
        (r"^decode_head\.convs\.(\d)\.conv\.", r"sem_seg_head.projections.\1."),
        (r"^decode_head\.convs\.(\d)\.bn\.", r"sem_seg_head.projections.\1.norm."),
        (r"^decode_head\.fusion_conv\.conv\.", "sem_seg_head.fuse."),
        (r"^decode_head\.fusion_conv\.bn\.", "sem_seg_head.fuse.norm."),
        *MMSEG_CLASSIFIER,
    ),
    classifier=_CLASSIFIER,
    resize=MMSEG_MIT_RESIZE,
    splits=MMSEG_MIT_SPLITS,
)

for _key_map in (NVLABS, HUGGING_FACE, MMSEGMENTATION):
    register_key_map(_key_map)
