"""Key maps of torchvision's, mmsegmentation's, pytorch-cv's and GluonCV's FCN files."""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import (
    MMSEG_CLASSIFIER,
    MMSEG_FCN_AUXILIARY,
    MMSEG_RESNET,
    PYTORCH_CV_CLASSIFIER,
    PYTORCH_CV_MODEL,
    TORCHVISION_RESNET,
)
from segzoo.checkpoint.rules_gluon import (
    GLUON_BACKBONE_BLOCKS,
    GLUON_SEGMENTATION,
    auxiliary_block_names,
    block_names,
    fcn_head_block_names,
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

_HEAD = (
    *PYTORCH_CV_CLASSIFIER,
    (r"^head\.block\.0\.", "sem_seg_head.convs.0."),
    (r"^head\.block\.1\.", "sem_seg_head.convs.0.norm."),
)

# With JPU or a dilated backbone.
PYTORCH_CV_FCN = KeyMap(
    name="pytorch-cv FCN",
    recognize=(r"^base1\.0\.weight$", r"^head\.block\.4\.weight$", r"!^head\.(?!block\.)"),
    rules=(
        *PYTORCH_CV_MODEL,
        *_HEAD,
    ),
    extras=(r"^auxlayer\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

GLUON_FCN = KeyMap(
    name="GluonCV FCN",
    recognize=(
        r"^layer1\.0\.bn1\.gamma$|resnetv1s_layers1_batchnorm0_gamma$",
        r"^head\.block\.4\.weight$|_fcnhead0_hybridsequential0_conv1_weight$",
        r"!^head\.(?!block\.)",
        r"!head\d+_conv0_weight$",
    ),
    rules=(
        *block_names(r"fcn\d+_"),
        *GLUON_BACKBONE_BLOCKS,
        *fcn_head_block_names("_fcnhead0_", "head"),
        *auxiliary_block_names(1),
        *GLUON_SEGMENTATION,
        *_HEAD,
    ),
    # Exported for inference.
    absent=(r"^auxiliary_head\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

register_key_map(TORCHVISION_FCN)
register_key_map(MMSEG_FCN)
register_key_map(PYTORCH_CV_FCN)
register_key_map(GLUON_FCN)
