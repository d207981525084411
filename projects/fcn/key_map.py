"""Key maps of torchvision's, mmsegmentation's and pytorch-cv's FCN files."""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import (
    MMSEG_CLASSIFIER,
    MMSEG_FCN_AUXILIARY,
    MMSEG_RESNET,
    PYTORCH_CV_CLASSIFIER,
    PYTORCH_CV_MODEL,
    TORCHVISION_RESNET,
)

TORCHVISION_FCN = KeyMap(
    name="torchvision FCN",
    recognize=(
        r"^backbone\.layer1\.0\.conv1\.weight$",
        r"^classifier\.0\.weight$",
        r"^classifier\.4\.weight$",
    ),
    rules=(
        *TORCHVISION_RESNET,
        (r"^aux_classifier\.", "auxiliary_head."),
        (r"^classifier\.", "sem_seg_head."),
        (r"^(sem_seg_head|auxiliary_head)\.0\.", r"\1.convs.0."),
        (r"^(sem_seg_head|auxiliary_head)\.1\.", r"\1.convs.0.norm."),
        (r"^(sem_seg_head|auxiliary_head)\.4\.", r"\1.predictor."),
    ),
    extras=(r"^aux_classifier\.",),
    # Older files, and models saved without it, have no auxiliary classifier.
    absent=(r"^auxiliary_head\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

MMSEG_FCN = KeyMap(
    name="mmsegmentation FCN",
    recognize=(
        r"^backbone\.layer1\.0\.conv1\.weight$",
        r"^decode_head\.convs\.0\.conv\.weight$",
        # Other heads of mmsegmentation have these convolutions and additional ones.
        r"!^decode_head\.(?!convs\.|conv_cat\.|conv_seg\.)",
    ),
    rules=(
        *MMSEG_RESNET,
        *MMSEG_FCN_AUXILIARY,
        *MMSEG_CLASSIFIER,
        (r"^decode_head\.(convs\.\d+|conv_cat)\.", r"sem_seg_head.\1."),
        (r"^(sem_seg_head\..+)\.conv\.weight$", r"\1.weight"),
        (r"^(sem_seg_head\..+)\.bn\.", r"\1.norm."),
    ),
    extras=(r"^auxiliary_head\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

# With JPU or a dilated backbone.
PYTORCH_CV_FCN = KeyMap(
    name="pytorch-cv FCN",
    recognize=(r"^base1\.0\.weight$", r"^head\.block\.4\.weight$", r"!^head\.(?!block\.)"),
    rules=(
        *PYTORCH_CV_MODEL,
        *PYTORCH_CV_CLASSIFIER,
        (r"^head\.block\.0\.", "sem_seg_head.convs.0."),
        (r"^head\.block\.1\.", "sem_seg_head.convs.0.norm."),
    ),
    extras=(r"^auxlayer\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

register_key_map(TORCHVISION_FCN)
register_key_map(MMSEG_FCN)
register_key_map(PYTORCH_CV_FCN)
