"""Key maps of mmsegmentation's DeepLabV3+ files, and of NVIDIA's (VPLR) and GluonCV's on WideResNet38."""

import re

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import MMSEG_CLASSIFIER, MMSEG_FCN_AUXILIARY, MMSEG_RESNET, WIDE_RESNET38
from segzoo.checkpoint.rules_gluon import GLUON_NORMS, block_names, numbered

MMSEG_DEEPLABV3PLUS = KeyMap(
    name="mmsegmentation DeepLabV3+",
    recognize=(
        r"^backbone\.layer1\.0\.conv1\.weight$",
        r"^decode_head\.image_pool\.1\.conv\.weight$",
        r"^decode_head\.sep_bottleneck\.0\.",
    ),
    rules=(
        *MMSEG_RESNET,
        *MMSEG_FCN_AUXILIARY,
        *MMSEG_CLASSIFIER,
        (r"^decode_head\.image_pool\.1\.", "sem_seg_head.aspp.pooling."),
        (r"^decode_head\.aspp_modules\.", "sem_seg_head.aspp.convs."),
        (r"^decode_head\.bottleneck\.", "sem_seg_head.projection."),
        (r"^decode_head\.c1_bottleneck\.", "sem_seg_head.fine."),
        (r"^decode_head\.sep_bottleneck\.", "sem_seg_head.decoder."),
        (r"^(sem_seg_head\..+)\.(depthwise|pointwise)_conv\.", r"\1.\2."),
        (r"^(sem_seg_head\..+)\.conv\.weight$", r"\1.weight"),
        (r"^(sem_seg_head\..+)\.bn\.", r"\1.norm."),
    ),
    extras=(r"^auxiliary_head\.",),
    classifier=(r"^(sem_seg_head|auxiliary_head)\.predictor\.(weight|bias)$",),
)

_VPLR = (
    *WIDE_RESNET38,
    (r"^aspp\.features\.(\d)\.0\.", r"sem_seg_head.aspp.convs.\1."),
    (r"^aspp\.features\.(\d)\.1\.", r"sem_seg_head.aspp.convs.\1.norm."),
    (r"^aspp\.img_conv\.0\.", "sem_seg_head.aspp.pooling."),
    (r"^aspp\.img_conv\.1\.", "sem_seg_head.aspp.pooling.norm."),
    (r"^bot_aspp\.", "sem_seg_head.projection."),
    (r"^bot_fine\.", "sem_seg_head.fine."),
    (r"^final\.0\.", "sem_seg_head.decoder.0."),
    (r"^final\.1\.", "sem_seg_head.decoder.0.norm."),
    (r"^final\.3\.", "sem_seg_head.decoder.1."),
    (r"^final\.4\.", "sem_seg_head.decoder.1.norm."),
    (r"^final\.6\.", "sem_seg_head.predictor."),
)

VPLR = KeyMap(
    name="NVIDIA DeepLabV3+ WideResNet38",
    recognize=(
        r"^mod7\.block1\.convs\.conv1\.weight$",
        r"^aspp\.img_conv\.0\.weight$",
        r"^bot_fine\.weight$",
    ),
    rules=_VPLR,
    classifier=(r"^sem_seg_head\.predictor\.weight$",),
)


def _backbone_blocks() -> tuple[list[str], list[str]]:
    """Return GluonCV's structural names of the backbone's convolutions, and of its norms, in their order."""
    convs, norms = ["mod1.0"], []
    for module, depth, convs_per_block in ((2, 3, 2), (3, 3, 2), (4, 6, 2), (5, 3, 2), (6, 1, 3), (7, 1, 3)):
        for block in range(depth):
            name = f"mod{module}.{block}"
            convs += [f"{name}.convs.{index}" for index in (0, 2, 5)[:convs_per_block]]
            norms += [
                f"{name}.bn1.0",
                *(f"{name}.convs.{index}.0" for index in (1, 3)[: convs_per_block - 1]),
            ]
            if block == 0:
                convs.append(f"{name}.proj_conv")
    return convs, norms


def _vplr_block(match: re.Match[str]) -> str:
    return f"mod{match[1]}.block{int(match[2]) + 1}."


_CONVS, _NORMS = _backbone_blocks()
_ASPP = "head.aspp"
GLUON_DEEPLABV3PLUS = KeyMap(
    name="GluonCV DeepLabV3+ WideResNet38",
    recognize=(
        r"^mod7\.0\.convs\.5\.weight$|(^|_)conv42_weight$",
        r"^head\.c1_block\.0\.weight$|_deeplabhead0_conv2_weight$",
    ),
    rules=(
        *block_names(r"deeplabwv3plus\d+_"),
        *numbered("conv", _CONVS),
        *numbered("batchnorm", _NORMS),
        *numbered(
            "_deeplabhead0_conv",
            (
                f"{_ASPP}.b0.0",
                f"{_ASPP}.project.0",
                "head.c1_block.0",
                *(f"head.block.{i}" for i in (0, 3, 6)),
            ),
        ),
        *numbered("_deeplabhead0_batchnorm", (f"{_ASPP}.b0.1", "head.block.1", "head.block.4")),
        (r"^_deeplabhead0_hybridsequential4_conv0:", f"{_ASPP}.b4.gap.1."),
        (r"^_deeplabhead0_hybridsequential4_batchnorm0:", f"{_ASPP}.b4.gap.2."),
        (r"^_deeplabhead0_hybridsequential([123])_conv0:", rf"{_ASPP}.b\1.0."),
        (r"^_deeplabhead0_hybridsequential([123])_batchnorm0:", rf"{_ASPP}.b\1.1."),
        *GLUON_NORMS,
        # NVIDIA's names of the same network.
        (r"^mod1\.0\.", "mod1.conv1."),
        (r"^mod([2-7])\.(\d+)\.", _vplr_block),
        (r"\.convs\.0\.", ".convs.conv1."),
        (r"\.convs\.1\.0\.", ".convs.bn2.0."),
        (r"\.convs\.2\.", ".convs.conv2."),
        (r"\.convs\.3\.0\.", ".convs.bn3.0."),
        (r"\.convs\.5\.", ".convs.conv3."),
        (r"^head\.aspp\.b4\.gap\.([12])\.", lambda match: f"aspp.img_conv.{int(match[1]) - 1}."),
        (r"^head\.aspp\.b([0-3])\.", r"aspp.features.\1."),
        (r"^head\.aspp\.project\.0\.", "bot_aspp."),
        (r"^head\.c1_block\.0\.", "bot_fine."),
        (r"^head\.block\.", "final."),
        *_VPLR,
    ),
    classifier=(r"^sem_seg_head\.predictor\.weight$",),
)

register_key_map(MMSEG_DEEPLABV3PLUS)
register_key_map(VPLR)
register_key_map(GLUON_DEEPLABV3PLUS)
