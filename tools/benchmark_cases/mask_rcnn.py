"""Mask R-CNN R50 beside Detectron2's GeneralizedRCNN, with the same weights: an image, and a training step.

An image goes from uint8 to boxes and masks at its size. A step is the losses of an image with 12 instances
and the gradients of all parameters; both draw the same samples. C4 models, whose time is that of res5 on
every region, also run with fewer regions.
"""

import re
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import Tensor, nn

from segzoo.checkpoint.rules_cnn import DETECTRON2_FPN
from segzoo.model_zoo import load_config
from segzoo.modeling.detection.storage import event_storage

from . import Case, Pair

KINDS = {"c4": "C4", "fpn": "FPN"}
NUM_INSTANCES, NUM_CLASSES = 12, 80
# Relative difference of losses and gradients, and the share of pixels, that rounding may change.
TOLERANCE, PIXEL_TOLERANCE = 1e-3, 1e-4
# Scales class logits so that random weights are as confident as trained ones.
CERTAINTY = 30.0


# Keys that give a tenth of the proposals of a test, and an eighth of the samples of a step.
FEWER = ["MODEL.RPN.POST_NMS_TOPK_TEST", "100", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "64"]


def their_config(kind: str, more: Sequence[str] = ()) -> CfgNode:
    """Return Detectron2's configuration of the network, with more keys and values."""
    cfg = get_cfg()
    node = cfg.MODEL
    node.DEVICE, node.MASK_ON, node.ROI_HEADS.NUM_CLASSES = "cpu", True, NUM_CLASSES
    if kind == "fpn":
        node.BACKBONE.NAME = "build_resnet_fpn_backbone"
        node.RESNETS.OUT_FEATURES = node.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
        node.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        node.RPN.PRE_NMS_TOPK_TRAIN, node.RPN.PRE_NMS_TOPK_TEST, node.RPN.POST_NMS_TOPK_TRAIN = (
            2000,
            1000,
            1000,
        )
        node.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
        node.ROI_HEADS.NAME, node.ROI_HEADS.IN_FEATURES = "StandardROIHeads", ["p2", "p3", "p4", "p5"]
        node.ROI_BOX_HEAD.NAME, node.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 2
        node.ROI_BOX_HEAD.POOLER_RESOLUTION, node.ROI_MASK_HEAD.NUM_CONV = 7, 4
    cfg.merge_from_list(list(more))
    return cfg


def models(kind: str, more: Sequence[str] = ()) -> tuple[nn.Module, nn.Module]:
    """Return segzoo's and Detectron2's model with equal weights, and with more keys and values."""
    torch.manual_seed(0)
    theirs = build_model(their_config(kind, more))
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if name.endswith("conv3.weight"):  # keeps the activations small
                weight.mul_(0.3)
        theirs.roi_heads.box_predictor.cls_score.weight.mul_(CERTAINTY)
    ours = build_model(load_config(f"instance/coco/mask_rcnn_{kind}_r50", [*more, "MODEL.DEVICE", "cpu"]))
    state = {ours_of(name): weight for name, weight in theirs.state_dict().items()}
    assert state.keys() == ours.state_dict().keys()
    ours.load_state_dict(state)
    return ours, theirs


def ours_of(name: str) -> str:
    """Return our name for a weight of theirs."""
    for pattern, replacement in DETECTRON2_FPN:
        name = re.sub(pattern, replacement, name)
    return name


def polygons(rng: np.random.Generator, size: tuple[int, int]) -> list[list[np.ndarray]]:
    """Return a polygon of 30 points for each instance."""
    height, width = size
    found = []
    for _ in range(NUM_INSTANCES):
        center = rng.uniform(0.2, 0.8, 2) * (width, height)
        angles = np.sort(rng.uniform(0, 2 * np.pi, 30))
        radii = rng.uniform(0.5, 1, (30, 1)) * rng.uniform(10, min(size) / 5)
        found.append([(center + radii * np.stack([np.cos(angles), np.sin(angles)], 1)).reshape(-1)])
    return found


def batch(size: tuple[int, int], form: str) -> list[dict]:
    """Return one image with instances."""
    rng = np.random.default_rng(0)
    shapes = polygons(rng, size)
    masks = PolygonMasks(shapes)
    boxes = masks.get_bounding_boxes()
    boxes.clip(size)
    instances = Instances(size)
    instances.gt_boxes = Boxes(boxes.tensor)
    instances.gt_classes = torch.from_numpy(rng.integers(0, NUM_CLASSES, NUM_INSTANCES))
    instances.gt_masks = masks if form == "polygon" else BitMasks.from_polygon_masks(shapes, *size)
    image = torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8))
    return [{"image": image, "instances": instances}]


def inference(kind: str, size: tuple[int, int], more: Sequence[str] = ()) -> Pair:
    ours, theirs = (model.eval() for model in models(kind, more))
    inputs = [{"image": batch(size, "polygon")[0]["image"], "height": size[0], "width": size[1]}]

    @torch.inference_mode()
    def run(model: nn.Module) -> Instances:
        found = model(inputs)[0]["instances"]
        found.get("pred_masks")  # ours are pasted when they are read
        return found

    def compare(one: Instances, other: Instances) -> str:
        if len(one) != len(other):
            return f"DIFFERENT, {len(one)} and {len(other)} instances"
        boxes = (one.pred_boxes.tensor - other.pred_boxes.tensor).abs().max().item()
        pixels = (torch.as_tensor(one.pred_masks) != other.pred_masks).float().mean().item()
        prefix = "DIFFERENT, " if pixels > PIXEL_TOLERANCE else ""
        return f"{prefix}{len(one)} instances, boxes {boxes:.1e} pixels, masks {pixels:.1e}"

    return Pair(lambda: run(ours), lambda: run(theirs), compare)


def training_step(kind: str, size: tuple[int, int], form: str, more: Sequence[str] = ()) -> Pair:
    ours, theirs = (model.train() for model in models(kind, more))
    inputs = batch(size, form)

    def run(model: nn.Module) -> tuple[Tensor, Tensor]:
        model.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        with event_storage():
            loss = sum(model(inputs).values())
        loss.backward()
        return loss.detach(), model.roi_heads.box_predictor.cls_score.weight.grad.clone()

    def compare(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> str:
        loss, gradient = (
            ((a - b).abs().max() / b.abs().max()).item() for a, b in zip(one, other, strict=True)
        )
        prefix = "DIFFERENT, " if max(loss, gradient) > TOLERANCE else ""
        return f"{prefix}loss {loss:.1e}, gradients {gradient:.1e}"

    return Pair(lambda: run(ours), lambda: run(theirs), compare)


SIZES = {"c4": (480, 640), "fpn": (800, 1088)}

CASES = [
    Case(
        f"{kind}-{height}x{width}-image",
        f"Mask R-CNN R50 {name}, image {height} x {width} to instances; peer: Detectron2",
        lambda kind=kind, size=(height, width): inference(kind, size),
        goal=1.0,
        memory_goal=1.0,
        repeat=3,
        slow=True,
        recorded=False,
    )
    for kind, name in KINDS.items()
    for height, width in (SIZES[kind],)
] + [
    Case(
        f"{kind}-{height}x{width}-step-{form}",
        f"Mask R-CNN R50 {name}, training step of one image {height} x {width}, {form}; peer: Detectron2",
        lambda kind=kind, size=(height, width), form=form: training_step(kind, size, form),
        goal=1.0,
        memory_goal=1.0,
        repeat=3,
        slow=True,
        recorded=False,
    )
    for kind, name in KINDS.items()
    for height, width in (SIZES[kind],)
    for form in ("polygon", "bitmask")
]

CASES += [
    Case(
        f"c4-fewer-regions-256x320-{name}",
        f"Mask R-CNN R50 C4 with {regions}, {title} 256 x 320; peer: Detectron2",
        make,
        goal=1.0,
        memory_goal=1.0,
        repeat=4,
        slow=True,
    )
    for name, regions, title, make in (
        ("image", "100 proposals", "image to instances", lambda: inference("c4", (256, 320), FEWER)),
        (
            "step",
            "64 samples",
            "training step of one image",
            lambda: training_step("c4", (256, 320), "polygon", FEWER),
        ),
    )
]
