"""Mask R-CNN of toy width, here and in Detectron2, with the same weights."""

from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import nn

from segzoo.checkpoint.rules_cnn import DETECTRON2_FPN
from segzoo.config.load import new_config
from segzoo.modeling.backbones import resnet
from segzoo.utils.methods import load_methods

CLASSES = 4
WIDTH = 8
SIZES = ((101, 131), (118, 97))
# A ResNet-50 with an eighth of the channels.
VARIANT = "r50_toy"
TOY = resnet.ResNetVariant("bottleneck", (3, 4, 6, 3), width=WIDTH)


class Peers(NamedTuple):
    """The configuration and model of both, with equal weights."""

    cfg: CfgNode
    ours: nn.Module
    their_cfg: CfgNode
    theirs: nn.Module

    def named(self) -> list[tuple[str, nn.Parameter, nn.Parameter]]:
        """Return the name and both parameters of all parameters."""
        theirs = {renamed(name): value for name, value in self.theirs.named_parameters()}
        ours = dict(self.ours.named_parameters())
        assert ours.keys() == theirs.keys()
        return [(name, value, theirs[name]) for name, value in ours.items()]


def renamed(name: str) -> str:
    """Return our name for a parameter of theirs."""
    import re

    for pattern, replacement in DETECTRON2_FPN:
        name = re.sub(pattern, replacement, name)
    return name


def _shared(cfg: CfgNode, kind: str, changes: dict) -> None:
    """Set keys that both have, with the same meaning."""
    node = cfg.MODEL
    node.DEVICE, node.MASK_ON = "cpu", True
    cfg.INPUT.FORMAT, node.PIXEL_MEAN, node.PIXEL_STD = "BGR", [103.53, 116.28, 123.675], [58.0, 57.0, 57.0]
    node.ROI_HEADS.NUM_CLASSES = CLASSES
    node.ROI_HEADS.SCORE_THRESH_TEST = 0.15
    node.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    node.ROI_MASK_HEAD.CONV_DIM = 16
    node.ROI_BOX_HEAD.FC_DIM = 16
    node.RPN.PRE_NMS_TOPK_TRAIN, node.RPN.PRE_NMS_TOPK_TEST = 300, 200
    node.RPN.POST_NMS_TOPK_TRAIN = node.RPN.POST_NMS_TOPK_TEST = 60
    node.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 48
    if kind == "c4":
        node.ROI_HEADS.NAME = "Res5ROIHeads"
    else:
        node.ROI_HEADS.NAME = "StandardROIHeads"
        node.ROI_BOX_HEAD.NAME, node.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 2
        node.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
        node.ROI_MASK_HEAD.NUM_CONV = 2
    if kind == "dc5":
        node.RPN.IN_FEATURES = node.ROI_HEADS.IN_FEATURES = ["res5"]
    if kind == "fpn":
        node.FPN.OUT_CHANNELS = 16
        node.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        node.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
        node.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [96]]
    for key, value in changes.items():
        cfg.merge_from_list([key, value])


def their_config(kind: str, changes: dict) -> CfgNode:
    cfg = get_cfg()
    node = cfg.MODEL
    node.RESNETS.DEPTH, node.RESNETS.STRIDE_IN_1X1 = 50, True
    node.RESNETS.STEM_OUT_CHANNELS, node.RESNETS.RES2_OUT_CHANNELS = WIDTH, 4 * WIDTH
    node.RESNETS.WIDTH_PER_GROUP = WIDTH
    if kind == "dc5":
        node.RESNETS.OUT_FEATURES, node.RESNETS.RES5_DILATION = ["res5"], 2
    if kind == "fpn":
        node.BACKBONE.NAME = "build_resnet_fpn_backbone"
        node.RESNETS.OUT_FEATURES = node.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    _shared(cfg, kind, changes)
    return cfg


def our_config(kind: str, changes: dict) -> CfgNode:
    load_methods()
    cfg = new_config()
    cfg.TASK = "instance"
    node = cfg.MODEL
    node.META_ARCHITECTURE = "MaskRCNN"
    node.BACKBONE.NAME, node.BACKBONE.VARIANT = "ResNetBackbone", VARIANT
    node.BACKBONE.STRIDE_IN_1X1, node.BACKBONE.FREEZE_AT = True, 2
    node.BACKBONE.OUT_FEATURES = {"c4": ("res4",), "dc5": ("res5",)}.get(
        kind, ("res2", "res3", "res4", "res5")
    )
    node.BACKBONE.OUTPUT_STRIDE = 16 if kind == "dc5" else 32
    if kind == "fpn":
        node.NECK.NAME = "FPN"
    _shared(cfg, kind, changes)
    return cfg


def build_peers(kind: str, changes: dict | None = None) -> Peers:
    """Build both for "c4", "dc5" or "fpn" features, with weights that keep activations small.

    Args:
        changes: values of Detectron2's keys, for both.
    """
    torch.manual_seed(0)
    their_cfg, cfg = their_config(kind, changes or {}), our_config(kind, changes or {})
    theirs, ours = build_model(their_cfg), build_model(cfg)
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if name.endswith("conv3.weight"):
                value.mul_(0.3)
            if name.endswith(("cls_score.weight", "mask_head.predictor.weight", "objectness_logits.weight")):
                value.normal_(std=0.2)
    fit = ours.load_state_dict({renamed(name): value for name, value in theirs.state_dict().items()})
    assert not fit.missing_keys
    return Peers(cfg, ours, their_cfg, theirs)


def make_inputs(form: str, sizes=SIZES) -> list[dict]:
    """Return images with two or three instances each, as the mapper does; the second image has one more.

    Args:
        form: "polygon" or "bitmask".
    """
    rng = np.random.default_rng(0)
    batch = []
    for index, (height, width) in enumerate(sizes):
        image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
        polygons = []
        for _ in range(2 + index):
            center = rng.uniform(0.3, 0.7, 2) * (width, height)
            angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
            radii = rng.uniform(10, 30, (9, 1))
            polygons.append([(center + radii * np.stack([np.cos(angles), np.sin(angles)], 1)).reshape(-1)])
        instances = Instances((height, width))
        masks = PolygonMasks(polygons)
        instances.gt_boxes = masks.get_bounding_boxes()
        instances.gt_boxes.clip((height, width))
        instances.gt_classes = torch.from_numpy(rng.integers(0, CLASSES, 2 + index))
        instances.gt_masks = (
            masks if form == "polygon" else BitMasks.from_polygon_masks(polygons, height, width)
        )
        batch.append({"image": image, "instances": instances, "height": height + 20, "width": 2 * width})
    return batch


def no_instances(size: tuple[int, int]) -> Instances:
    """Return the targets of an image without any."""
    instances = Instances(size)
    instances.gt_boxes, instances.gt_classes = Boxes(torch.zeros(0, 4)), torch.zeros(0, dtype=torch.int64)
    instances.gt_masks = PolygonMasks([])
    return instances
