"""Key maps of semseg's, mmsegmentation's, pytorch-cv's and GluonCV's PSPNet files."""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import (
    MMSEG_CLASSIFIER,
    MMSEG_FCN_AUXILIARY,
    MMSEG_RESNET,
    PYTORCH_CV_CLASSIFIER,
    PYTORCH_CV_MODEL,
    SEMSEG_CLASSIFIERS,
    SEMSEG_RESNET,
)
from segzoo.checkpoint.rules_gluon import (
    GLUON_BACKBONE_BLOCKS,
    GLUON_SEGMENTATION,
    auxiliary_block_names,
    block_names,
    numbered,
)

SEMSEG_PSPNET = KeyMap(
    name="semseg PSPNet",
    recognize=(r"^layer0\.0\.weight$", r"^ppm\.features\.0\.1\.weight$", r"^cls\.4\.weight$"),
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
    recognize=(
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

_HEAD = (
    *PYTORCH_CV_CLASSIFIER,
    *(
        (rf"^head\.psp\.conv{index + 1}\.0\.", f"sem_seg_head.pooling.projections.{index}.")
        for index in range(4)
    ),
    *(
        (rf"^head\.psp\.conv{index + 1}\.1\.", f"sem_seg_head.pooling.projections.{index}.norm.")
        for index in range(4)
    ),
    (r"^head\.block\.0\.", "sem_seg_head.bottleneck."),
    (r"^head\.block\.1\.", "sem_seg_head.bottleneck.norm."),
)

# With JPU or a dilated backbone.
PYTORCH_CV_PSPNET = KeyMap(
    name="pytorch-cv PSPNet",
    recognize=(r"^base1\.0\.weight$", r"^head\.psp\.conv1\.0\.weight$"),
    rules=(
        *PYTORCH_CV_MODEL,
        *_HEAD,
    ),
    extras=(r"^auxlayer\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

GLUON_PSPNET = KeyMap(
    name="GluonCV PSPNet",
    recognize=(
        r"^layer1\.0\.bn1\.gamma$|resnetv1s_layers1_batchnorm0_gamma$",
        r"^head\.psp\.conv1\.0\.weight$|_pyramidpooling0_hybridsequential0_conv0_weight$",
    ),
    rules=(
        *block_names(r"pspnet\d+_"),
        *GLUON_BACKBONE_BLOCKS,
        *(
            (rf"^_pyramidpooling0_hybridsequential{index}_{kind}0:", f"head.psp.conv{index + 1}.{part}.")
            for index in range(4)
            for part, kind in enumerate(("conv", "batchnorm"))
        ),
        *numbered("_psphead0_conv", ("head.block.0", "head.block.4")),
        *numbered("_psphead0_batchnorm", ("head.block.1",)),
        *auxiliary_block_names(0),
        *GLUON_SEGMENTATION,
        *_HEAD,
    ),
    # Exported for inference.
    absent=(r"^auxiliary_head\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

register_key_map(SEMSEG_PSPNET)
register_key_map(MMSEG_PSPNET)
register_key_map(PYTORCH_CV_PSPNET)
register_key_map(GLUON_PSPNET)
