"""Key maps of mmsegmentation's, pytorch-cv's and GluonCV's DANet files."""

import torch
from torch import Tensor

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import (
    MMSEG_CLASSIFIER,
    MMSEG_FCN_AUXILIARY,
    MMSEG_RESNET,
    PYTORCH_CV_MODEL,
)
from segzoo.checkpoint.rules_gluon import GLUON_BACKBONE_BLOCKS, GLUON_SEGMENTATION, block_names, numbered

MMSEG_DANET = KeyMap(
    name="mmsegmentation DANet",
    recognize=(r"^decode_head\.pam_in_conv\.", r"^decode_head\.cam_in_conv\."),
    rules=(
        *MMSEG_RESNET,
        *MMSEG_FCN_AUXILIARY,
        *MMSEG_CLASSIFIER,
        (r"^decode_head\.pam_", "sem_seg_head.position_"),
        (r"^decode_head\.cam_", "sem_seg_head.channel_"),
        (r"^(sem_seg_head\.(?:position|channel)_(?:in|out))_conv\.conv\.", r"\1."),
        (r"^(sem_seg_head\.(?:position|channel)_(?:in|out))_conv\.bn\.", r"\1.norm."),
        (r"^(sem_seg_head\.(?:position|channel))_conv_seg\.", r"\1_predictor."),
        (r"^decode_head\.pam\.(query|key|value)_project\.", r"sem_seg_head.position_attention.\1."),
        (r"^decode_head\.pam\.gamma\.scale$", "sem_seg_head.position_attention.gamma"),
        (r"^decode_head\.cam\.gamma\.scale$", "sem_seg_head.channel_attention.gamma"),
    ),
    extras=(r"^auxiliary_head\.",),
    classifier=(
        r"^sem_seg_head\.(position_|channel_)?predictor\.(weight|bias)$",
        r"^auxiliary_head\.predictor\.(weight|bias)$",
    ),
)


def as_scalar(gamma: Tensor, shape: torch.Size) -> Tensor | None:
    """Return a one-element vector as a scalar, or None for other shapes."""
    return gamma.reshape(shape) if gamma.numel() == shape.numel() == 1 else None


_HEAD = (
    (r"^head\.conv5a\.0\.", "sem_seg_head.position_in."),
    (r"^head\.conv5a\.1\.", "sem_seg_head.position_in.norm."),
    (r"^head\.conv5c\.0\.", "sem_seg_head.channel_in."),
    (r"^head\.conv5c\.1\.", "sem_seg_head.channel_in.norm."),
    (r"^head\.conv51\.0\.", "sem_seg_head.position_out."),
    (r"^head\.conv51\.1\.", "sem_seg_head.position_out.norm."),
    (r"^head\.conv52\.0\.", "sem_seg_head.channel_out."),
    (r"^head\.conv52\.1\.", "sem_seg_head.channel_out.norm."),
    (r"^head\.sa\.(query|key|value)_conv\.", r"sem_seg_head.position_attention.\1."),
    (r"^head\.sa\.gamma$", "sem_seg_head.position_attention.gamma"),
    (r"^head\.sc\.gamma$", "sem_seg_head.channel_attention.gamma"),
)

# The files have only the classifier of the sum; the branches' classifiers are only used in training.
PYTORCH_CV_DANET = KeyMap(
    name="pytorch-cv DANet",
    recognize=(r"^base1\.0\.weight$", r"^head\.sa\.query_conv\.weight$", r"^head\.conv8\.1\.weight$"),
    rules=(
        *PYTORCH_CV_MODEL,
        *_HEAD,
        (r"^head\.conv8\.1\.", "sem_seg_head.predictor."),
    ),
    extras=(r"^auxlayer\.",),
    training_only=(r"^sem_seg_head\.(position|channel)_predictor\.(weight|bias)$",),
    classifier=MMSEG_DANET.classifier,
    resize=((r"_attention\.gamma$", as_scalar),),
)

GLUON_DANET = KeyMap(
    name="GluonCV DANet",
    recognize=(
        r"^layer1\.0\.bn1\.gamma$|resnetv1s_layers1_batchnorm0_gamma$",
        r"^head\.sa\.query_conv\.weight$|pam_module0_gamma$",
    ),
    rules=(
        *block_names(r"danet\d+_"),
        *GLUON_BACKBONE_BLOCKS,
        (r"^pam_module0:", "head.sa."),
        (r"^cam_module0:", "head.sc."),
        *numbered(
            "conv",
            (
                *("head.conv5a.0", "head.conv5c.0"),
                *("head.sa.query_conv", "head.sa.key_conv", "head.sa.value_conv"),
                *("head.conv51.0", "head.conv52.0", "head.conv6.0", "head.conv7.0", "head.conv8.0"),
            ),
        ),
        *numbered("batchnorm", ("head.conv5a.1", "head.conv5c.1", "head.conv51.1", "head.conv52.1")),
        *GLUON_SEGMENTATION,
        *_HEAD,
        (r"^head\.conv6\.0\.", "sem_seg_head.position_predictor."),
        (r"^head\.conv7\.0\.", "sem_seg_head.channel_predictor."),
        (r"^head\.conv8\.0\.", "sem_seg_head.predictor."),
    ),
    classifier=MMSEG_DANET.classifier,
    resize=((r"_attention\.gamma$", as_scalar),),
)

register_key_map(MMSEG_DANET)
register_key_map(PYTORCH_CV_DANET)
register_key_map(GLUON_DANET)
