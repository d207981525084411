"""Mask R-CNN files that GluonCV wrote, loaded as they are: segzoo's detections are GluonCV's.

See `test_gluoncv.py`; the recorded detectors have a 64th of the channels and 20 proposals.
"""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image

from segzoo.checkpoint import load_checkpoint
from segzoo.model_zoo.configs import load_config
from segzoo.modeling.backbones import resnet
from segzoo.modeling.batch import Sizes
from tests.peers.test_gluoncv import CASES, assert_equal_weights, make_cases, needs_gluoncv, respelled

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
    return report


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


def recorded_model(name, monkeypatch, overrides=(), file=None):
    """Return a detector with recorded weights, and our names by those of the file."""
    leaf = LEAVES[f"{name}_coco"]
    monkeypatch.setitem(resnet.VARIANTS, leaf.split("_", 3)[-1], TOYS[name])
    model = make_model(leaf, 20, [*NARROW, *(NARROW_FPN if "_fpn_" in leaf else ()), *overrides])
    return model, load(model, file or CASES / f"{name}.zip").renamed


@pytest.mark.parametrize("name", TOYS)
def test_recorded_files_give_recorded_detections(name, monkeypatch):
    model, _ = recorded_model(name, monkeypatch)
    with np.load(CASES / f"{name}.npz") as case:
        compare(model, case, boxes=1e-3, masks=1e-5)


SPELLINGS = ("blocks", "exported")


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", TOYS)
def test_other_spellings_of_the_names_are_read_alike(name, spelling, monkeypatch, tmp_path):
    reference, _ = recorded_model(name, monkeypatch)
    model, _ = recorded_model(name, monkeypatch, file=respelled(name, spelling, tmp_path / "renamed.params"))
    assert_equal_weights(model, reference)


def pasted(mask, box, size):
    """Return an (m, m) mask in its box at the size of an image, (H, W) bool, as GluonCV's evaluation does."""
    side = len(mask)
    padded = np.zeros((side + 2, side + 2), np.float32)
    padded[1:-1, 1:-1] = mask
    x0, y0, x1, y1 = box.tolist()
    corners = []
    for low, high in ((x0, x1), (y0, y1)):
        reach = (high - low) / 2 * (side + 2) / side
        corners.append((round((low + high) / 2 - reach), round((low + high) / 2 + reach)))
    (left, right), (top, bottom) = corners
    resized = Image.fromarray(padded).resize((right - left + 1, bottom - top + 1), Image.Resampling.BILINEAR)
    canvas = np.zeros((size[0] + 400, size[1] + 400), bool)  # the image with a border of 200
    canvas[top + 200 : bottom + 201, left + 200 : right + 201] = np.asarray(resized) > 0.5
    return canvas[200:-200, 200:-200]


@pytest.mark.parametrize("name", TOYS)
@torch.no_grad()
def test_results_are_recorded_boxes_and_masks_at_the_size_of_the_image(name, monkeypatch):
    """Boxes are cut at the image of the network and divided by the scale of the height, along both axes."""
    model, _ = recorded_model(name, monkeypatch)
    with np.load(CASES / f"{name}.npz") as case:
        image = torch.from_numpy(case["image"])
        recorded = [case[f"out{index}"] for index in range(3)]
    size = 161, 203  # scales 0.795 and 0.788
    inputs = [{"image": image, "height": size[0], "width": size[1]}]
    (detections,) = model.raw_outputs(inputs)["detections"]
    found = model(inputs)[0]["instances"]
    valid = recorded[0][:, 0] >= 0
    classes, scores, corners = (one[valid] for one in recorded)
    assert len(found) == len(classes) > 5
    assert found.image_size == size
    np.testing.assert_array_equal(found.pred_classes, classes[:, 0])
    np.testing.assert_allclose(found.scores, scores[:, 0], atol=1e-5)
    height, width = image.shape[1:]
    expected = np.clip(corners, 0, [width, height] * 2) / (height / size[0])
    np.testing.assert_allclose(found.pred_boxes.tensor, expected, atol=2e-3)
    masks = np.asarray(found.pred_masks)
    assert masks.shape == (len(found), *size)
    boxes = found.pred_boxes.tensor.double()
    for mask, probabilities, box in zip(masks, detections.pred_masks[:, 0].numpy(), boxes, strict=True):
        np.testing.assert_array_equal(mask, pasted(probabilities, box, size))
    assert 0.001 < masks.mean() < 0.5


@torch.no_grad()
def test_boxes_that_leave_the_image_are_cut_before_they_are_scaled(monkeypatch):
    """By hand: at a scale of 1/2 along the height. The corners of the third mask are at 12.5 and 28.5."""
    monkeypatch.setitem(resnet.VARIANTS, "r18_v1b", TOYS["mask_rcnn_resnet18_v1b"])
    model = make_model(LEAVES["mask_rcnn_resnet18_v1b_coco"], 20, NARROW)
    boxes = torch.tensor([[-6.0, 10, 20, 60], [70, -3, 90, 20], [6.75, 6.75, 13.75, 13.75]])
    found = Instances((50, 80), pred_boxes=Boxes(boxes))
    found.pred_masks = torch.rand(3, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    found.scores, found.pred_classes = torch.ones(3), torch.zeros(3, dtype=torch.int64)
    sizes = [Sizes((50, 80), (50, 80), (100, 150))]
    (result,) = model.postprocess({"detections": [found]}, sizes, tasks=(), semantic="")
    result = result["instances"]
    boxes = [[0, 20, 40, 100], [140, 0, 160, 40], [13.5, 13.5, 27.5, 27.5]]
    assert result.pred_boxes.tensor.tolist() == boxes
    pairs = zip(found.pred_masks[:, 0].numpy(), np.array(boxes), strict=True)
    expected = [pasted(*pair, (100, 150)) for pair in pairs]
    assert np.array_equal(np.asarray(result.pred_masks), expected)


@needs_gluoncv
@pytest.mark.parametrize("name", LEAVES)
def test_detectors_of_gluoncv_give_its_detections(name, tmp_path):
    make_cases(tmp_path, name)
    model = make_model(LEAVES[name], 100)
    load(model, tmp_path / f"{name}.zip")
    with np.load(tmp_path / f"{name}.npz") as case:
        compare(model, case, boxes=2e-2, masks=1e-4)


@needs_gluoncv
def test_files_of_all_writers_of_mxnet_load_alike(monkeypatch, tmp_path):
    """Of `save_parameters`, `collect_params().save`, and `export`."""
    make_cases(tmp_path, "--spellings")
    v1d = resnet.ResNetVariant(
        "bottleneck", (3, 4, 23, 3), width=1, deep_stem=(1, 1, 1), pooled_shortcut=True
    )
    for name in ("mask_rcnn_resnet101_v1d", "mask_rcnn_fpn_resnet101_v1d"):
        monkeypatch.setitem(TOYS, name, v1d)
    for name in TOYS:
        models = [
            recorded_model(name, monkeypatch, file=tmp_path / f"{name}-{spelling}.params")[0]
            for spelling in ("structural", *SPELLINGS)
        ]
        for model in models[1:]:
            assert_equal_weights(model, models[0])
