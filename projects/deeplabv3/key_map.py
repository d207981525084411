"""Key maps of torchvision's, mmsegmentation's, pytorch-cv's and GluonCV's DeepLabV3 files."""

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
    numbered,
)

TORCHVISION_DEEPLABV3 = KeyMap(
    name="torchvision DeepLabV3",
    recognize=(r"^backbone\.layer1\.0\.conv1\.weight$", r"^classifier\.0\.convs\.4\.1\.weight$"),
    rules=(
        *TORCHVISION_RESNET,
        (r"^classifier\.0\.convs\.4\.1\.", "sem_seg_head.aspp.pooling."),
        (r"^classifier\.0\.convs\.4\.2\.", "sem_seg_head.aspp.pooling.norm."),
        (r"^classifier\.0\.convs\.(\d)\.0\.", r"sem_seg_head.aspp.convs.\1."),
        (r"^classifier\.0\.convs\.(\d)\.1\.", r"sem_seg_head.aspp.convs.\1.norm."),
        (r"^classifier\.0\.project\.0\.", "sem_seg_head.projection."),
        (r"^classifier\.0\.project\.1\.", "sem_seg_head.projection.norm."),
        (r"^classifier\.1\.", "sem_seg_head.convs.0."),
        (r"^classifier\.2\.", "sem_seg_head.convs.0.norm."),
        (r"^classifier\.4\.", "sem_seg_head.predictor."),
        (r"^aux_classifier\.0\.", "auxiliary_head.convs.0."),
        (r"^aux_classifier\.1\.", "auxiliary_head.convs.0.norm."),
        (r"^aux_classifier\.4\.", "auxiliary_head.predictor."),
    ),
    extras=(r"^aux_classifier\.",),
    # Older files, and models saved without it, have no auxiliary classifier.
    absent=(r"^auxiliary_head\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

MMSEG_DEEPLABV3 = KeyMap(
    name="mmsegmentation DeepLabV3",
    recognize=(
        r"^backbone\.layer1\.0\.conv1\.weight$",
        r"^decode_head\.image_pool\.1\.conv\.weight$",
        r"^decode_head\.aspp_modules\.1\.conv\.weight$",
        r"^decode_head\.bottleneck\.conv\.weight$",
    ),
    rules=(
        *MMSEG_RESNET,
        *MMSEG_FCN_AUXILIARY,
        *MMSEG_CLASSIFIER,
        (r"^decode_head\.image_pool\.1\.", "sem_seg_head.aspp.pooling."),
        (r"^decode_head\.aspp_modules\.", "sem_seg_head.aspp.convs."),
        (r"^decode_head\.bottleneck\.", "sem_seg_head.projection."),
        (r"^(sem_seg_head\..+)\.conv\.weight$", r"\1.weight"),
        (r"^(sem_seg_head\..+)\.bn\.", r"\1.norm."),
    ),
    extras=(r"^auxiliary_head\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

_HEAD = (
    *PYTORCH_CV_CLASSIFIER,
    (r"^head\.aspp\.b4\.gap\.1\.", "sem_seg_head.aspp.pooling."),
    (r"^head\.aspp\.b4\.gap\.2\.", "sem_seg_head.aspp.pooling.norm."),
    (r"^head\.aspp\.b(\d)\.0\.", r"sem_seg_head.aspp.convs.\1."),
    (r"^head\.aspp\.b(\d)\.1\.", r"sem_seg_head.aspp.convs.\1.norm."),
    (r"^head\.aspp\.project\.0\.", "sem_seg_head.projection."),
    (r"^head\.aspp\.project\.1\.", "sem_seg_head.projection.norm."),
    (r"^head\.block\.0\.", "sem_seg_head.convs.0."),
    (r"^head\.block\.1\.", "sem_seg_head.convs.0.norm."),
)

# With JPU or a dilated backbone.
PYTORCH_CV_DEEPLABV3 = KeyMap(
    name="pytorch-cv DeepLabV3",
    recognize=(r"^base1\.0\.weight$", r"^head\.aspp\.b4\.gap\.1\.weight$"),
    rules=(
        *PYTORCH_CV_MODEL,
        *_HEAD,
    ),
    extras=(r"^auxlayer\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

_BRANCHES = "_deeplabhead0_hybridsequential"
GLUON_DEEPLABV3 = KeyMap(
    name="GluonCV DeepLabV3",
    recognize=(
        r"^layer1\.0\.bn1\.gamma$|resnetv1s_layers1_batchnorm0_gamma$",
        # The name is so spelled.
        rf"^head\.aspp\.concurent\.4\.gap\.1\.weight$|{_BRANCHES}5_conv0_weight$",
    ),
    rules=(
        *block_names(r"deeplabv3\d+_"),
        *GLUON_BACKBONE_BLOCKS,
        (rf"^{_BRANCHES}4_conv0:", "head.aspp.b4.gap.1."),
        (rf"^{_BRANCHES}4_batchnorm0:", "head.aspp.b4.gap.2."),
        (rf"^{_BRANCHES}5_conv0:", "head.aspp.project.0."),
        (rf"^{_BRANCHES}5_batchnorm0:", "head.aspp.project.1."),
        (rf"^{_BRANCHES}(\d)_conv0:", r"head.aspp.b\1.0."),
        (rf"^{_BRANCHES}(\d)_batchnorm0:", r"head.aspp.b\1.1."),
        *numbered("_deeplabhead0_conv", ("head.block.0", "head.block.4")),
        *numbered("_deeplabhead0_batchnorm", ("head.block.1",)),
        *auxiliary_block_names(0),
        (r"^head\.aspp\.concurent\.", "head.aspp.b"),
        *GLUON_SEGMENTATION,
        *_HEAD,
    ),
    # Exported for inference.
    absent=(r"^auxiliary_head\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

register_key_map(TORCHVISION_DEEPLABV3)
register_key_map(MMSEG_DEEPLABV3)
register_key_map(PYTORCH_CV_DEEPLABV3)
register_key_map(GLUON_DEEPLABV3)
