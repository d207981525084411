"""Key maps of Detectron2's files of detectors with a feature pyramid, and of GluonCV's Mask R-CNN files.

The names of Detectron2's models without a pyramid, C4 and dilated C5, are segzoo's own.
"""

import re

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import DETECTRON2_FPN, Rules
from segzoo.checkpoint.rules_gluon import (
    GLUON_DEEP_STEM_RESNET,
    GLUON_RESNET,
    block_names,
    numbered,
    resnet_block_names,
)

DETECTRON2 = KeyMap(
    name="Detectron2 Mask R-CNN",
    recognize=(r"^backbone\.bottom_up\.", r"^backbone\.fpn_lateral\d\.", r"^roi_heads\."),
    rules=DETECTRON2_FPN,
    classifier=(
        r"(^|\.)roi_heads\.box_predictor\.(cls_score|bbox_pred)\.(weight|bias)$",
        r"(^|\.)roi_heads\.mask_head\.predictor\.(weight|bias)$",
    ),
)

register_key_map(DETECTRON2)

# GluonCV's files. Its classifier has background first.
#
# `save_parameters` writes structural names, or block names below `features.` where these are a symbol block.
# The block names of `export` and `collect_params().save` have the network's prefix, `maskrcnn0_`, but not in
# the backbone, the pyramid and the dense layers of boxes, which are made outside of the network.
_NETWORK = r"maskrcnn\d+_"
_HEADS = (
    (r"^rpn\.(rpn_head\.)?conv1\.0\.", "proposal_generator.rpn_head.conv."),
    (r"^rpn\.(rpn_head\.)?score\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn\.(rpn_head\.)?loc\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"^box_predictor\.", "roi_heads.box_predictor.bbox_pred."),
    (r"^class_predictor\.", "roi_heads.box_predictor.cls_score."),
    (r"^mask\.mask\.", "roi_heads.mask_head.predictor."),
)
_HEADS_BLOCKS = (
    *numbered(rf"{_NETWORK}rpn0_(?:rpnhead0_)?conv", ("rpn.conv1.0", "rpn.score", "rpn.loc")),
    *numbered(rf"{_NETWORK}dense", ("class_predictor", "box_predictor")),
)
_FPN = (
    # Their numbers count the dense layers of all networks in the process, two for each.
    (r"^dense\d*[02468]:", "box_features.0."),
    (r"^dense\d*[13579]:", "box_features.2."),
    (r"^box_features\.[01]\.", "roi_heads.box_head.fc1."),
    (r"^box_features\.[23]\.", "roi_heads.box_head.fc2."),
    (r"^(?:features\.)?(P\d)_conv_lat:", lambda match: f"neck.lateral.{match[1].lower()}."),
    (r"^(?:features\.)?(P[2-5])_conv1:", lambda match: f"neck.output.{match[1].lower()}."),
    (r"^(?:features\.)?P6_conv1:", "neck.top_block.p6."),
)
_C4 = (
    (r"^features\.0\.", "conv1."),
    (r"^features\.1\.", "bn1."),
    (r"^features\.([456])\.", lambda match: f"layer{int(match[1]) - 3}."),
    (r"^top_features\.0\.", "layer4."),
)


def _mask_rules(convolutions: int) -> Rules:
    """Return the rules of the mask head: convolutions and ReLU in turns, then the transposed convolution."""
    layers = [f"mask_fcn{index}" for index in range(1, convolutions + 1)] + ["deconv"]
    indices = [f".{2 * index}" for index in range(len(layers))] if convolutions else [""]
    blocks = [f"mask.deconv{index}" for index in indices] + ["mask.mask"]
    rules = zip(indices, layers, strict=True)
    return (
        *numbered(rf"{_NETWORK}mask0_conv", blocks),
        *((rf"^mask\.deconv{re.escape(index)}\.", f"roi_heads.mask_head.{layer}.") for index, layer in rules),
    )


def _gluon_map(
    name: str, recognize: tuple[str, ...], letter: str, convs_per_block: int, masks: int, features: Rules
) -> KeyMap:
    """Return the map of a detector's files.

    Args:
        recognize: besides the heads.
        letter: b or d, of the ResNet's version.
        convs_per_block: of the ResNet.
        masks: number of convolutions of the mask head.
        features: the rules of all that precedes the heads.
    """
    deep_stem = letter == "d"
    return KeyMap(
        name=f"GluonCV Mask R-CNN {name}",
        recognize=(
            rf"^class_predictor\.weight$|^(arg:)?{_NETWORK}dense0_weight$",
            rf"^mask\.mask\.weight$|^(arg:)?{_NETWORK}mask0_conv1_weight$",
            *recognize,
        ),
        rules=(
            *block_names(),
            *resnet_block_names(rf"(?:features\.)?resnetv1{letter}_", convs_per_block, deep_stem),
            *_HEADS_BLOCKS,
            *_mask_rules(masks),
            *features,
            *_HEADS,
            *(GLUON_DEEP_STEM_RESNET if deep_stem else GLUON_RESNET),
            (r"^(?=(?:stem|res[2-4])\.)", "backbone."),
            # Without a pyramid, res5 belongs to the second stage.
            (r"^(?=res5\.)", "backbone." if features == _FPN else "roi_heads."),
        ),
        extras=(
            r"anchor_generator|rpnanchorgenerator",
            r"_target_generator|normalizedperclassboxcenterencoder",
        ),
        classifier=DETECTRON2.classifier,
        transforms=((r"\.box_predictor\.cls_score\.", lambda value: value.roll(-1, 0)),),
    )


_PYRAMID = r"(^|:|\.)P6_conv1_weight$"


def _register_gluon_maps() -> None:
    for letter, convs_per_block, masks in (("b", 2, 2), ("b", 3, 4), ("d", 3, 4)):
        name = f"FPN v1{letter}{' of basic blocks' * (convs_per_block == 2)}"
        last = rf"^mask\.deconv\.8\.|{_NETWORK}mask0_conv4_"
        recognize = (
            _PYRAMID,
            rf"^(arg:|features\.)?resnetv1{letter}_conv0_weight$",
            last if masks == 4 else f"!{last}",
        )
        register_key_map(_gluon_map(name, recognize, letter, convs_per_block, masks, _FPN))
    # Structural names do not depend on the blocks.
    for name, first, letter, convs_per_block in (
        ("C4 v1b", (r"^features\.0\.weight$|^(arg:)?resnetv1b_down1_conv0_weight$",), "b", 3),
        (
            "C4 v1b of basic blocks, block names",
            (r"^(arg:)?resnetv1b_conv0_weight$", "!resnetv1b_down1_conv0_weight$"),
            "b",
            2,
        ),
        ("C4 v1d", (r"^features\.0\.0\.weight$|^(arg:)?resnetv1d_conv0_weight$",), "d", 3),
    ):
        register_key_map(_gluon_map(name, (*first, f"!{_PYRAMID}"), letter, convs_per_block, 0, _C4))


_register_gluon_maps()
