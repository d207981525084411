"""Mask R-CNN files that GluonCV wrote, loaded as they are: segzoo's detections are GluonCV's.

See `test_gluoncv.py`; the recorded detectors have a 64th of the channels and 20 proposals.
"""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from segzoo.checkpoint import load_checkpoint
from segzoo.model_zoo.configs import load_config
from segzoo.modeling.backbones import resnet
from tests.peers.test_gluoncv import CASES, make_cases, needs_gluoncv

LEAVES = {
    f"mask_rcnn_{kind}{backbone}_coco": f"instance/coco/mask_rcnn_{kind_here}_{backbone_here}"
    for kind, kind_here in (("", "c4"), ("fpn_", "fpn"))
    for backbone, backbone_here in (
        ("resnet18_v1b", "r18_v1b"),
        ("resnet50_v1b", "r50_v1b"),
        ("resnet101_v1d", "r101_v1d"),
    )
}
TOYS = {
    "mask_rcnn_resnet18_v1b": resnet.ResNetVariant("basic", (2, 2, 2, 2), width=1),
    "mask_rcnn_fpn_resnet18_v1b": resnet.ResNetVariant("basic", (2, 2, 2, 2), width=1),
    "mask_rcnn_fpn_resnet50_v1b": resnet.ResNetVariant("bottleneck", (3, 4, 6, 3), width=1),
}
NARROW = ["MODEL.RPN.CONV_DIMS", "[16]", "MODEL.ROI_MASK_HEAD.CONV_DIM", "4"]
NARROW_FPN = ["MODEL.FPN.OUT_CHANNELS", "4", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]


def make_model(leaf, proposals, overrides=()):
    counts = ["MODEL.RPN.POST_NMS_TOPK_TEST", str(proposals), "TEST.DETECTIONS_PER_IMAGE", str(proposals)]
    cfg = load_config(leaf, [*overrides, *counts, "MODEL.DEVICE", "cpu"])
    torch.manual_seed(1)
    return build_model(cfg).eval()


def load(model, file):
    report = load_checkpoint(model, file)
    assert report.complete
    assert report.source.startswith("GluonCV Mask R-CNN")
    assert report.unexpected == report.training_only == []


def compare(model, case, *, boxes, masks):
    """Compare detections before they are pasted; differences in pixels, and in probabilities."""
    with torch.no_grad():
        (found,) = model.raw_outputs([{"image": torch.from_numpy(case["image"])}])["detections"]
    classes, scores, corners, expected_masks = (case[f"out{index}"] for index in range(4))
    valid = classes[:, 0] >= 0
    assert 5 < valid.sum() == len(found)
    np.testing.assert_array_equal(found.pred_classes.numpy(), classes[valid, 0])
    np.testing.assert_allclose(found.scores.numpy(), scores[valid, 0], atol=1e-5)
    np.testing.assert_allclose(found.pred_boxes.tensor.numpy(), corners[valid], atol=boxes)
    step = int(case["step"])
    probabilities = found.pred_masks[:, 0, ::step, ::step].numpy()
    np.testing.assert_allclose(probabilities, expected_masks[valid], atol=masks)


@pytest.mark.parametrize("name", TOYS)
def test_recorded_files_give_recorded_detections(name, monkeypatch):
    leaf = LEAVES[f"{name}_coco"]
    monkeypatch.setitem(resnet.VARIANTS, leaf.split("_", 3)[-1], TOYS[name])
    model = make_model(leaf, 20, [*NARROW, *(NARROW_FPN if "_fpn_" in leaf else ())])
    load(model, CASES / f"{name}.zip")
    with np.load(CASES / f"{name}.npz") as case:
        compare(model, case, boxes=1e-3, masks=1e-5)


@needs_gluoncv
@pytest.mark.parametrize("name", LEAVES)
def test_detectors_of_gluoncv_give_its_detections(name, tmp_path):
    make_cases(tmp_path, name)
    model = make_model(LEAVES[name], 100)
    load(model, tmp_path / f"{name}.zip")
    with np.load(tmp_path / f"{name}.npz") as case:
        compare(model, case, boxes=2e-2, masks=1e-4)
