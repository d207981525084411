"""Checks of Detectron2's keys of two-stage detectors, before its modules are built.

Those of single values are in `config/detector_rules.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    CascadeROIHeads,
    StandardROIHeads,
)

from segzoo.utils.errors import InputError
from segzoo.utils.methods import load_methods

from ..features import build_in_features
from ..registry import registered
from .roi_heads import find_roi_heads

_GROUPS = 32  # of Detectron2's GN
# Detectron2's parts for rotated boxes, which have an angle, by key.
_ROTATED = {
    "ANCHOR_GENERATOR.NAME": "RotatedAnchorGenerator",
    "PROPOSAL_GENERATOR.NAME": "RRPN",
    "ROI_HEADS.NAME": "RROIHeads",
    "ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignRotated",
    "ROI_MASK_HEAD.POOLER_TYPE": "ROIAlignRotated",
}


def check_names(cfg: CfgNode) -> None:
    """Check the names of both stages and the keys that depend on each other.

    Raises:
        InputError: a part is not registered, or Detectron2 could not build it.
    """
    load_methods()  # Detectron2's registries do not import the methods that add to them
    node = cfg.MODEL
    for key, name in _ROTATED.items():
        section, leaf = key.split(".")
        if node[section][leaf] == name:
            raise InputError(f"MODEL.{key} {name}: it is for rotated boxes, masks have upright ones")
    for registry, key, name in (
        (PROPOSAL_GENERATOR_REGISTRY, "PROPOSAL_GENERATOR.NAME", node.PROPOSAL_GENERATOR.NAME),
        (ANCHOR_GENERATOR_REGISTRY, "ANCHOR_GENERATOR.NAME", node.ANCHOR_GENERATOR.NAME),
        (RPN_HEAD_REGISTRY, "RPN.HEAD_NAME", node.RPN.HEAD_NAME),
        (ROI_MASK_HEAD_REGISTRY, "ROI_MASK_HEAD.NAME", node.ROI_MASK_HEAD.NAME),
    ):
        registered(registry, f"MODEL.{key}", name)
    kind = find_roi_heads(cfg)
    by_layers = _is_a(kind, StandardROIHeads)
    if node.ROI_BOX_HEAD.NAME or by_layers:  # C4 has none
        registered(ROI_BOX_HEAD_REGISTRY, "MODEL.ROI_BOX_HEAD.NAME", node.ROI_BOX_HEAD.NAME)
    problem = _anchors_problem(node) or _labels_problem(node) or _weights_problem(node)
    if by_layers:
        problem = problem or _layers_problem(node)
        problem = problem or (_is_a(kind, CascadeROIHeads) and _cascade_problem(node))
    if problem:
        raise InputError(problem)


def _anchors_problem(node: CfgNode) -> str:
    """Return what is wrong with the anchors of the levels of the first stage; "" if nothing."""
    levels, anchors = list(node.RPN.IN_FEATURES), node.ANCHOR_GENERATOR
    counts = []
    for key, value in (("SIZES", anchors.SIZES), ("ASPECT_RATIOS", anchors.ASPECT_RATIOS)):
        each = [len(level) for level in value] if isinstance(value[0], Sequence) else [len(value)]
        if len(each) not in (1, len(levels)):
            return (
                f"MODEL.ANCHOR_GENERATOR.{key} {list(value)}: it has lists for {len(each)} levels, but "
                f"MODEL.RPN.IN_FEATURES {levels} has {len(levels)}; give one list for each, or one for all"
            )
        counts.append(each * len(levels) if len(each) == 1 else each)
    numbers = [sizes * ratios for sizes, ratios in zip(*counts, strict=True)]
    if len(set(numbers)) > 1:
        return (
            f"MODEL.ANCHOR_GENERATOR: {numbers} anchors (sizes times ratios) at a location of "
            f"{', '.join(levels)}; expected the same number on all levels"
        )
    return ""


def _labels_problem(node: CfgNode) -> str:
    for key in ("RPN", "ROI_HEADS"):
        thresholds, labels = node[key].IOU_THRESHOLDS, node[key].IOU_LABELS
        if len(labels) != len(thresholds) + 1:
            return (
                f"MODEL.{key}.IOU_LABELS {list(labels)}: expected {len(thresholds) + 1} labels, one more "
                f"than MODEL.{key}.IOU_THRESHOLDS {list(thresholds)}"
            )
    return ""


def _weights_problem(node: CfgNode) -> str:
    stages = node.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS
    for key, weights in (
        ("RPN", node.RPN.BBOX_REG_WEIGHTS),
        ("ROI_BOX_HEAD", node.ROI_BOX_HEAD.BBOX_REG_WEIGHTS),
        *(("ROI_BOX_CASCADE_HEAD", stage) for stage in stages),
    ):
        if len(weights) != 4:
            return (
                f"MODEL.{key}.BBOX_REG_WEIGHTS {list(weights)}: expected four numbers; a fifth one is for "
                "the angle of rotated boxes"
            )
    return ""


def _layers_problem(node: CfgNode) -> str:
    """Return what is wrong with the layers of the heads for boxes and masks; "" if nothing."""
    if node.ROI_BOX_HEAD.NUM_FC + node.ROI_BOX_HEAD.NUM_CONV == 0:
        return "MODEL.ROI_BOX_HEAD.NUM_FC 0 and NUM_CONV 0: the head of boxes has no layer; set NUM_FC to 2"
    for key in ("ROI_BOX_HEAD", "ROI_MASK_HEAD"):
        head = node[key]
        if head.NORM == "GN" and head.CONV_DIM % _GROUPS and (key == "ROI_MASK_HEAD" or head.NUM_CONV):
            return (
                f"MODEL.{key}.CONV_DIM {head.CONV_DIM}: expected a multiple of {_GROUPS}, the number of "
                f"groups of MODEL.{key}.NORM GN"
            )
    return ""


def _cascade_problem(node: CfgNode) -> str:
    """Return what CascadeROIHeads lacks; "" if nothing."""
    ious, weights = node.ROI_BOX_CASCADE_HEAD.IOUS, node.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS
    if not node.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        return (
            f"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG False: {node.ROI_HEADS.NAME} has one box for all "
            "classes; set it to True"
        )
    if len(ious) != len(weights):
        return (
            f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS {list(ious)}: expected one for each of the {len(weights)} "
            "stages of MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS"
        )
    if ious[0] != node.ROI_HEADS.IOU_THRESHOLDS[0]:
        return (
            f"MODEL.ROI_BOX_CASCADE_HEAD.IOUS {list(ious)}: expected the first to be that of "
            f"MODEL.ROI_HEADS.IOU_THRESHOLDS {list(node.ROI_HEADS.IOU_THRESHOLDS)}"
        )
    return ""


def find_feature_maps(cfg: CfgNode, shape: Mapping[str, ShapeSpec]) -> dict[str, tuple[str, ...]]:
    """Return the names of the feature maps of RPN and ROI_HEADS, which exist and can share their layers.

    Args:
        shape: the feature maps by name.

    Raises:
        InputError: a map does not exist, numbers of channels differ, or the strides of maps that regions are
            pooled from do not double from one to the next.
    """
    found = {}
    pooled = _is_a(find_roi_heads(cfg), StandardROIHeads)
    for section in ("RPN", "ROI_HEADS"):
        key = f"MODEL.{section}.IN_FEATURES"
        names = found[section] = build_in_features(cfg.MODEL[section].IN_FEATURES, shape, key)
        specs: list[Any] = [shape[name] for name in names]
        channels, strides = [spec.channels for spec in specs], [spec.stride for spec in specs]
        if (section == "RPN" or pooled) and len(set(channels)) > 1:
            raise InputError(
                f"{key} {list(names)}: they have {', '.join(map(str, channels))} channels; expected the same "
                "number, as of the levels of MODEL.NECK.NAME FPN"
            )
        doubled = [strides[0] << index for index in range(len(strides))]
        if section == "ROI_HEADS" and pooled and strides != doubled:
            raise InputError(
                f"{key} {list(names)}: they have strides {', '.join(map(str, strides))}; expected each twice "
                "the one before it, such as ['p2', 'p3', 'p4', 'p5']"
            )
    return found


def _is_a(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)
