"""The names of PSPNet's weights in the files of semseg and of mmsegmentation."""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.layouts import (
    MMSEG_CLASSIFIER,
    MMSEG_FCN_AUXILIARY,
    MMSEG_RESNET,
    SEMSEG_CLASSIFIERS,
    SEMSEG_RESNET,
)

SEMSEG_PSPNET = KeyMap(
    name="semseg PSPNet",
    recognise=(r"^layer0\.0\.weight$", r"^ppm\.features\.0\.1\.weight$", r"^cls\.4\.weight$"),
    rules=(
        *SEMSEG_RESNET,
        *SEMSEG_CLASSIFIERS,
        (r"^ppm\.features\.(\d+)\.1\.", r"sem_seg_head.pooling.projections.\1."),
        (r"^ppm\.features\.(\d+)\.2\.", r"sem_seg_head.pooling.projections.\1.norm."),
    ),
    extras=(r"^aux\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

MMSEG_PSPNET = KeyMap(
    name="mmsegmentation PSPNet",
    recognise=(
        r"^decode_head\.psp_modules\.0\.1\.conv\.weight$",
        r"^decode_head\.conv_seg\.weight$",
        r"!^decode_head\.lateral_convs\.",
    ),
    rules=(
        *MMSEG_RESNET,
        *MMSEG_FCN_AUXILIARY,
        *MMSEG_CLASSIFIER,
        (r"^decode_head\.psp_modules\.(\d+)\.1\.", r"sem_seg_head.pooling.projections.\1."),
        (r"^decode_head\.bottleneck\.", "sem_seg_head.bottleneck."),
        (r"^(sem_seg_head\..+)\.conv\.weight$", r"\1.weight"),
        (r"^(sem_seg_head\..+)\.bn\.", r"\1.norm."),
    ),
    extras=(r"^auxiliary_head\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

register_key_map(SEMSEG_PSPNET)
register_key_map(MMSEG_PSPNET)
