"""Key maps of Detectron2's files of detectors with a feature pyramid, and of GluonCV's Mask R-CNN files.

The names of Detectron2's models without a pyramid, C4 and dilated C5, are segzoo's own.
"""

from segzoo.checkpoint import KeyMap, register_key_map
from segzoo.checkpoint.rules_cnn import DETECTRON2_FPN, Rules
from segzoo.checkpoint.rules_gluon import (
    GLUON_DEEP_STEM_RESNET,
    GLUON_RESNET,
    block_names,
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
_GLUON_HEADS = (
    (r"^rpn\.(rpn_head\.)?conv1\.0\.", "proposal_generator.rpn_head.conv."),
    (r"^rpn\.(rpn_head\.)?score\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn\.(rpn_head\.)?loc\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"^box_predictor\.", "roi_heads.box_predictor.bbox_pred."),
    (r"^class_predictor\.", "roi_heads.box_predictor.cls_score."),
    (r"^mask\.mask\.", "roi_heads.mask_head.predictor."),
)
_GLUON_FPN = (
    (r"^box_features\.[01]\.", "roi_heads.box_head.fc1."),
    (r"^box_features\.[23]\.", "roi_heads.box_head.fc2."),
    (r"^features\.(P\d)_conv_lat:", lambda match: f"neck.lateral.{match[1].lower()}."),
    (r"^features\.(P[2-5])_conv1:", lambda match: f"neck.output.{match[1].lower()}."),
    (r"^features\.P6_conv1:", "neck.top_block.p6."),
)
_GLUON_C4 = (
    (r"^features\.0\.", "conv1."),
    (r"^features\.1\.", "bn1."),
    (r"^features\.([456])\.", lambda match: f"layer{int(match[1]) - 3}."),
    (r"^top_features\.0\.", "layer4."),
)


def _gluon_masks(convolutions: int) -> Rules:
    """Return the rules of the mask head: convolutions and ReLU in turns, then the transposed convolution."""
    if not convolutions:
        return ((r"^mask\.deconv\.", "roi_heads.mask_head.deconv."),)
    layers = [rf"mask_fcn{index}" for index in range(1, convolutions + 1)] + ["deconv"]
    return tuple(
        (rf"^mask\.deconv\.{2 * index}\.", f"roi_heads.mask_head.{layer}.")
        for index, layer in enumerate(layers)
    )


def _gluon_map(name: str, recognize: tuple[str, ...], rules: Rules) -> KeyMap:
    return KeyMap(
        name=f"GluonCV Mask R-CNN {name}",
        recognize=(r"^class_predictor\.weight$", r"^mask\.mask\.weight$", *recognize),
        rules=(
            *rules,
            (r"^(?=(?:stem|res[2-4])\.)", "backbone."),
            # Without a pyramid, res5 belongs to the second stage.
            (r"^(?=res5\.)", "backbone." if name.startswith("FPN") else "roi_heads."),
        ),
        extras=(r"anchor_generator", r"_target_generator"),
        classifier=DETECTRON2.classifier,
        transforms=((r"\.box_predictor\.cls_score\.", lambda value: value.roll(-1, 0)),),
    )


def _register_gluon_maps() -> None:
    for letter, convs_per_block, deep_stem, masks in (
        ("b", 2, False, 2),
        ("b", 3, False, 4),
        ("d", 3, True, 4),
    ):
        prefix = rf"features\.resnetv1{letter}_"
        last = r"^mask\.deconv\.8\."
        register_key_map(
            _gluon_map(
                f"FPN v1{letter}{' of basic blocks' * (convs_per_block == 2)}",
                (rf"^{prefix}conv0_weight$", last if masks == 4 else f"!{last}"),
                (
                    *block_names(),
                    *resnet_block_names(prefix, convs_per_block, deep_stem),
                    *_GLUON_FPN,
                    *_GLUON_HEADS,
                    *_gluon_masks(masks),
                    *(GLUON_DEEP_STEM_RESNET if deep_stem else GLUON_RESNET),
                ),
            )
        )
    for letter, stem in (("b", r"^features\.0\.weight$"), ("d", r"^features\.0\.0\.weight$")):
        resnet = GLUON_RESNET if letter == "b" else GLUON_DEEP_STEM_RESNET
        rules = (*_GLUON_C4, *_GLUON_HEADS, *_gluon_masks(0), *resnet)
        register_key_map(_gluon_map(f"C4 v1{letter}", (stem, r"^top_features\.0\."), rules))


_register_gluon_maps()
