"""The steps of GluonCV's Mask R-CNN against values computed by hand, and its training."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from segzoo.model_zoo.configs import load_config
from segzoo.modeling.backbones import resnet
from segzoo.modeling.detection import shared_masks
from segzoo.projects.mask_rcnn.gluon_anchors import WindowAnchorGenerator
from segzoo.projects.mask_rcnn.gluon_boxes import (
    box_coder,
    detect,
    label_anchors,
    learned_samples,
    sample_regions,
    select_proposals,
)
from segzoo.projects.mask_rcnn.gluon_paste import paste_in_pixels
from segzoo.projects.mask_rcnn.gluon_roi_heads import PixelLevelPooler, pixel_levels, soft_masks
from segzoo.utils.errors import InputError

# The anchors of stride 16 that the original code of Faster R-CNN lists, from 0.
ORIGINAL = [
    [-84, -40, 99, 55],
    [-176, -88, 191, 103],
    [-360, -184, 375, 199],
    [-56, -56, 71, 71],
    [-120, -120, 135, 135],
    [-248, -248, 263, 263],
    [-36, -80, 51, 95],
    [-80, -168, 95, 183],
    [-168, -344, 183, 359],
]


def test_all_parts_are_known_when_a_part_was_imported_by_itself():
    """Importing one module of a method registers what it defines, and not the other parts."""
    script = """
from segzoo.projects.mask_rcnn import meta_arch
from segzoo.model_zoo.configs import load_config
from segzoo.modeling.detection.checks import check_names

check_names(load_config("instance/coco/mask_rcnn_c4_r18_v1b"))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_anchors_are_those_of_the_original_code():
    generator = WindowAnchorGenerator(
        sizes=[[128, 256, 512]], aspect_ratios=[[0.5, 1, 2]], strides=[16], offset=0.0
    )
    (anchors,) = generator([torch.zeros(1, 1, 2, 3)])
    expected = torch.tensor(ORIGINAL, dtype=torch.float32)
    assert torch.equal(anchors.tensor[:9], expected)
    assert torch.equal(anchors.tensor[9:18], expected + torch.tensor([16, 0, 16, 0]))
    assert torch.equal(anchors.tensor[27:36], expected + torch.tensor([0, 16, 0, 16]))
    # Each level has its own window.
    generator = WindowAnchorGenerator(sizes=[[8], [8]], aspect_ratios=[[1]], strides=[4, 8], offset=0.0)
    found = [one.tensor.tolist() for one in generator([torch.zeros(1, 1, 1, 1)] * 2)]
    assert found == [[[-2, -2, 5, 5]], [[0, 0, 7, 7]]]


def test_sides_grow_by_at_most_exp_4_42():
    region = torch.tensor([[0.0, 0, 10, 20]])
    deltas = torch.tensor([[1.0, 0.5, 30, math.log(2) * 5]])
    ((x0, y0, x1, y1),) = box_coder((10, 10, 5, 5)).apply_deltas(deltas, region).tolist()
    assert (x0 + x1) / 2 == pytest.approx(5 + 0.1 * 10, abs=1e-3)
    assert (y0 + y1) / 2 == pytest.approx(10 + 0.05 * 20)
    assert (x1 - x0, y1 - y0) == pytest.approx((10 * math.exp(4.42), 40))


def test_proposals_of_all_levels_compete_and_missing_ones_are_filled_up():
    boxes = torch.tensor(
        [
            [-5.0, 0, 10, 10],  # cut at the image
            [0, 0, 10, 9],  # suppressed by it
            [90, 40, 140, 70],  # cut to 100 x 50
            [20, 20, 20, 30],  # a column of pixels
            [0, 0, 10, 4],  # IoU 0.4 with the first
        ]
    )
    scores = torch.tensor([0.9, 0.8, 0.95, 0.3, 0.7])
    options = {"min_side": 1, "pre_nms": 9, "post_nms": 6, "nms_thresh": 0.7}
    found, probabilities = select_proposals(boxes, scores, (50, 100), **options)
    expected = [[90, 40, 100, 50], [0, 0, 10, 10], [0, 0, 10, 4], [20, 20, 20, 30], [-1] * 4, [-1] * 4]
    assert found.tolist() == expected
    assert probabilities.tolist() == pytest.approx([0.95, 0.9, 0.7, 0.3, -1, -1])
    # Sides count both ends, so 1.5 is more than one column.
    found, _ = select_proposals(boxes, scores, (50, 100), **{**options, "min_side": 1.5, "post_nms": 4})
    assert found.tolist() == [*expected[:3], [-1] * 4]
    found, _ = select_proposals(boxes, scores, (50, 100), **{**options, "pre_nms": 2, "post_nms": 3})
    assert found.tolist() == [*expected[:2], [-1] * 4]


def test_detections_of_a_class_suppress_each_other_above_the_score():
    one, other = [0.0, 0, 10, 10], [0, 0, 10, 8]
    boxes = torch.tensor([[one, one], [other, other], [[50, 50, 60, 60], [-9, -9, 90, 90]]])
    probabilities = torch.tensor([[0.5, 0.2], [0.6, 0.01], [0.02, 0.7]])
    found = detect(boxes, probabilities, (40, 40), score_thresh=0.01, nms_thresh=0.5, max_detections=9)
    assert found.scores.tolist() == pytest.approx([0.7, 0.6, 0.2])  # 9, but never more than regions
    assert found.pred_classes.tolist() == [1, 0, 1]
    assert found.pred_boxes.tensor.tolist() == [[-9, -9, 90, 90], other, one]
    few = detect(boxes, probabilities, (40, 40), score_thresh=0.01, nms_thresh=0.5, max_detections=2)
    assert few.scores.tolist() == pytest.approx([0.7, 0.6])
    # The threshold itself is not above it.
    one = detect(
        boxes[1:],
        torch.tensor([[0.01, 0.01], [0.3, 0.01]]),
        (40, 40),
        score_thresh=0.01,
        nms_thresh=0.5,
        max_detections=9,
    )
    assert one.scores.tolist() == pytest.approx([0.3])
    none = detect(boxes, probabilities, (40, 40), score_thresh=0.9, nms_thresh=0.5, max_detections=2)
    assert none.pred_boxes.tensor.shape == (0, 4)


def test_anchors_inside_the_image_are_labeled():
    ious = torch.tensor([[0.75, 0.5, 0.29, 0.2, 0.9, 0.1], [0.1, 0.2, 0.1, 0.4, 0.1, 0.4 - 1e-8]])
    # The best one of the third object is below 0.3.
    ious = torch.cat((ious, torch.tensor([[0.0, 0, 0.25, 0, 0.2, 0]])))
    inside = torch.tensor([True, True, True, True, False, True])
    matched, labels = label_anchors(ious, inside, 0.7, 0.3)
    # The fourth and the last are the best ones of the second object; the fifth leaves the image.
    assert labels.tolist() == [1, -1, 0, 1, -1, 1]
    assert matched[[0, 3, 5]].tolist() == [0, 1, 1]
    _, labels = label_anchors(ious[:0], inside, 0.7, 0.3)
    assert labels.tolist() == [0, 0, 0, 0, -1, 0]


def test_a_quarter_of_the_draws_takes_positive_regions_first():
    positive = torch.tensor([True, False] * 3 + [False] * 2)
    order = torch.tensor([7, 0, 3, 2, 1, 5, 4, 6])
    # The others leave out 7 and 0, which are first in order; negatives run out, and 2 comes twice.
    assert sample_regions(positive, order, 8, 0.25).tolist() == [0, 2, 3, 1, 5, 6, 2, 4]
    assert sample_regions(positive, order, 20, 0.25).tolist() == [0, 2, 4, 7, 3, 5, 6, 4]  # no negative twice


def test_the_smallest_positive_samples_are_learned():
    positive = torch.tensor([True, False, True, True, True])
    areas = torch.tensor([5.0, 1, 4, 5, 9])
    assert learned_samples(positive, areas, 2).tolist() == [True, False, True, False, False]
    assert learned_samples(positive, areas, 3).tolist() == [True, False, True, True, False]
    assert torch.equal(learned_samples(positive, areas, 9), positive)


def test_levels_count_the_pixels_of_both_ends():
    sides = [223, 222.5, 111, 110, 447, 5000, 0]
    boxes = torch.tensor([[10.0, 10, 10 + side, 10 + side] for side in sides])
    assert pixel_levels(boxes, 2, 5).tolist() == [4, 3, 3, 2, 5, 5, 2]


def test_each_region_is_pooled_from_its_level():
    features = [torch.full((2, 1, 64 // 2**level, 64 // 2**level), float(level)) for level in range(4)]
    features = [one + 10 * torch.arange(2).view(2, 1, 1, 1) for one in features]
    pooler = PixelLevelPooler(2, [1 / 4, 1 / 8, 1 / 16, 1 / 32])
    boxes = [
        Boxes(torch.tensor([[0.0, 0, 50, 50], [0, 0, 230, 230]])),
        Boxes(torch.tensor([[8.0, 8, 150, 130]])),
    ]
    assert pooler(features, boxes)[:, 0].tolist() == [[[v, v], [v, v]] for v in (0.0, 2.0, 11.0)]


def test_mask_targets_are_shares_of_bins():
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, :, :3] = True
    mask[1, 2:6] = True
    boxes = torch.tensor([[0.0, 0, 8, 8], [1, 0, 5, 8]])
    first, second = soft_masks(BitMasks(mask), boxes, 2)
    # Samples of the first are at 1 and 3 along a bin: columns 1 (inside) and 3 (outside), in pixel indices.
    assert first.tolist() == [[0.5, 0], [0.5, 0]]
    # Rows 1 and 3, 5 and 7.
    assert second.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_polygons_to_learn_are_drawn_as_far_as_the_boxes_reach():
    """Bins at the edge of a box read a pixel beyond it, which is outside of this polygon."""
    polygons = [[np.array([0.0, 0, 4, 0, 4, 7, 0, 7])]]
    boxes = torch.tensor([[0.0, 0, 4, 6.7]])
    expected = soft_masks(BitMasks.from_polygon_masks(polygons, 12, 12), boxes, 2)
    assert 0 < expected.min() < expected.max() == 1
    assert torch.equal(soft_masks(PolygonMasks(polygons), boxes, 2), expected)


def test_masks_fill_boxes_of_whole_pixels():
    masks = torch.ones(3, 14, 14)
    boxes = torch.tensor([[10.0, 10, 24, 24], [-3, 5, 11, 19], [300, 300, 310, 310]])
    planes = paste_in_pixels(masks, boxes, (40, 50))
    # 14 pixels grow to 16, from 9 to 25 with both ends: the ones of 16 samples reach 17 - 2 pixels.
    expected = np.zeros((3, 40, 50), bool)
    expected[0, 10:25, 10:25] = True
    expected[1, 5:20, 0:12] = True
    assert np.array_equal(planes.numpy(), expected)


@pytest.fixture
def toys(monkeypatch):
    toy = resnet.ResNetVariant("basic", (1, 1, 1, 1), width=4)
    monkeypatch.setitem(resnet.VARIANTS, "r18_v1b", toy)


def model_of(kind, more=()):
    words = ["MODEL.DEVICE", "cpu", "MODEL.RPN.CONV_DIMS", "[8]", "MODEL.ROI_MASK_HEAD.CONV_DIM", "4"]
    if kind == "fpn":
        words += ["MODEL.FPN.OUT_CHANNELS", "4", "MODEL.ROI_BOX_HEAD.FC_DIM", "8"]
    torch.manual_seed(0)
    return build_model(load_config(f"instance/coco/mask_rcnn_{kind}_r18_v1b", [*words, *more]))


def sample(boxes, side=96):
    masks = torch.zeros(len(boxes), side, side, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    found = Instances((side, side), gt_masks=BitMasks(masks))
    found.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.gt_classes = torch.arange(len(boxes))
    image = torch.from_numpy(np.random.default_rng(len(boxes)).integers(0, 256, (3, side, side), np.uint8))
    return {"image": image, "instances": found}


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_it_learns_boxes_and_masks_beside_an_image_without_objects(kind, toys):
    model = model_of(kind).train()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.backbone.stem.parameters())
    with EventStorage():
        losses = model([sample([(10, 10, 60, 70), (40, 5, 90, 50)]), sample([])])
    assert losses.keys() == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    for name in ("proposal_generator.rpn_head.anchor_deltas", "roi_heads.mask_head.predictor"):
        assert model.get_parameter(f"{name}.weight").grad.abs().sum() > 0
    with EventStorage():
        losses = model([sample([])])
    assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_loc"] == 0


def test_masks_become_numbers_in_groups(monkeypatch):
    """Boxes share the masks of their objects, of which a group at a time is a float plane."""
    masks = torch.from_numpy(np.random.default_rng(0).random((5, 8, 8)) < 0.5)
    boxes = torch.tensor(
        [[0.0, 0, 8, 8], [1, 2, 5, 7], [3, 0, 8, 4], [0, 1, 6, 8], [2, 2, 6, 6], [0, 0, 4, 4]]
    )
    index = torch.tensor([4, 0, 2, 4, 1, 0])
    pairs = zip(masks[index], boxes, strict=True)
    expected = torch.cat([soft_masks(BitMasks(mask[None]), box[None], 2) for mask, box in pairs])
    sizes, align = [], shared_masks.ROIAlign.forward
    monkeypatch.setattr(
        shared_masks.ROIAlign, "forward", lambda *args: sizes.append(args[1].numel()) or align(*args)
    )
    shared = shared_masks.SharedBitMasks(masks[[3, 1, 4, 0, 2]])[torch.tensor([3, 1, 4, 0, 2])]
    for given in (BitMasks(masks), shared):
        assert torch.equal(soft_masks(given, boxes, 2, index), expected)
    assert sizes == [5 * 64] * 2
    sizes.clear()
    monkeypatch.setattr(shared_masks, "PIXELS_AT_ONCE", 2 * 64)
    for given in (BitMasks(masks), shared):
        assert torch.equal(soft_masks(given, boxes, 2, index), expected)
    assert sizes == [2 * 64, 2 * 64, 64] * 2


@pytest.mark.parametrize("name", ["SoftTargetMaskHead", "MaskRCNNConvUpsampleHead"])
def test_no_mask_is_copied_for_each_sample(name, toys, monkeypatch):
    """Copies for 512 samples are as many bytes as 170 images."""
    copied = []
    original = BitMasks.__getitem__
    monkeypatch.setattr(
        BitMasks, "__getitem__", lambda self, item: copied.append(item) or original(self, item)
    )
    planes = shared_masks.SharedBitMasks.tensor.fget
    monkeypatch.setattr(
        shared_masks.SharedBitMasks, "tensor", property(lambda self: copied.append(self) or planes(self))
    )
    model = model_of("fpn", ["MODEL.ROI_MASK_HEAD.NAME", name]).train()
    model.roi_heads.batch_size_per_image = 40
    with EventStorage():
        assert model([sample([(10, 10, 60, 70), (40, 5, 90, 50)])])["loss_mask"] > 0
    assert not copied


@pytest.mark.parametrize("kind", ["c4", "fpn"])
@torch.no_grad()
def test_one_box_and_mask_for_all_classes_are_those_of_each_class(kind, toys):
    """A model that predicts the same box and mask for each class gives the same losses and detections."""
    keys = "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"
    shared = model_of(kind, [word for key in keys for word in (key, "True")])
    weights = shared.state_dict()
    for part in ("box_predictor.bbox_pred", "mask_head.predictor"):
        for leaf in ("weight", "bias"):
            value = weights[f"roi_heads.{part}.{leaf}"]
            value.normal_(std=0.1)
            weights[f"roi_heads.{part}.{leaf}"] = torch.cat([value] * 80)
    model = model_of(kind)
    model.load_state_dict(weights)
    batch = [sample([(10, 10, 60, 70), (40, 5, 90, 50)])]
    losses = []
    for one in (model.train(), shared.train()):
        torch.manual_seed(5)
        with EventStorage():
            losses.append(one(batch))
    assert losses[0]["loss_box_reg"] > 0 < losses[0]["loss_mask"]
    torch.testing.assert_close(*losses)
    found, expected = (one.eval()(batch)[0]["instances"] for one in (shared, model))
    assert len(found) > 0
    assert torch.equal(found.pred_classes, expected.pred_classes)
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "giou"),
        ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool"),
        ("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", "4"),
        ("MODEL.RPN.BBOX_REG_LOSS_TYPE", "ciou"),
    ],
)
def test_keys_without_effect_are_refused(key, value, toys):
    with pytest.raises(InputError, match=f"^{key} {value} has no effect with MODEL[^\n]*$"):
        model_of("fpn", [key, value])


@pytest.mark.parametrize("kind", ["c4", "fpn"])
@torch.no_grad()
def test_missing_proposals_go_through_the_second_stage_once(kind, toys):
    """The detections are those of all proposals, of which most are boxes of -1."""
    model = model_of(kind, ["MODEL.RPN.POST_NMS_TOPK_TEST", "30", "MODEL.RPN.NMS_THRESH", "0.1"]).eval()
    pooled = []
    pooler = model.roi_heads.pooler if kind == "c4" else model.roi_heads.box_pooler
    pooler.register_forward_hook(lambda module, inputs, output: pooled.append(len(output)))
    images = ImageList.from_tensors([(sample([])["image"].float() - 128) / 64])
    features = model.backbone(images.tensor)
    if model.neck is not None:
        features = model.neck(features)
    (proposals,), _ = model.proposal_generator(images, features)
    (found,), _ = model.roi_heads(images, features, [proposals])
    count = int((proposals.objectness_logits > 0).sum())
    assert 0 < count < 20
    assert pooled[0] == len(proposals) == count + 1
    filled = Instances(proposals.image_size, proposal_boxes=Boxes(torch.full((30, 4), -1.0)))
    filled.proposal_boxes.tensor[:count] = proposals.proposal_boxes.tensor[:count]
    (expected,), _ = model.roi_heads(images, features, [filled])
    assert len(found) == len(expected) == 30
    assert torch.equal(found.pred_classes, expected.pred_classes)
    for field in ("scores", "pred_masks"):
        torch.testing.assert_close(found.get(field), expected.get(field))
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)


def test_detectron2s_second_stage_takes_its_proposals(toys):
    """Learning adds the true objects, which have boxes and scores alone, to the proposals."""
    names = {"HEADS": "StandardROIHeads", "BOX_HEAD": "FastRCNNConvFCHead"}
    names["MASK_HEAD"] = "MaskRCNNConvUpsampleHead"
    model = model_of(
        "fpn", [word for part, name in names.items() for word in (f"MODEL.ROI_{part}.NAME", name)]
    )
    with EventStorage():
        losses = model.train()([sample([(10, 10, 60, 70), (40, 5, 90, 50)])])
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    (found,) = model.eval()([{"image": sample([])["image"]}])
    assert found["instances"].pred_boxes.tensor.isfinite().all()


@torch.no_grad()
def test_training_has_no_missing_proposals(toys):
    rpn = model_of("fpn").proposal_generator.train()
    anchors = [Boxes(torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 10, 9.5]]))]
    logits = [torch.tensor([[0.3, -0.2, 0.1]])]
    (found,) = rpn.predict_proposals(anchors, logits, [torch.zeros(1, 3, 4)], [(50, 50)])
    assert found.proposal_boxes.tensor.tolist() == [[0, 0, 10, 10], [20, 20, 40, 40]]
    # A side grows by at most exp(4.42).
    deltas = torch.tensor([[[0.0, 0, 30, 0]]]).expand(1, 3, 4)
    (wide,) = rpn.predict_proposals(anchors, logits, [deltas], [(50, 9999)])
    assert wide.proposal_boxes.tensor[0, 2].item() == pytest.approx(5 + 5 * math.exp(4.42))
    (found,) = rpn.eval().predict_proposals(anchors, logits, [torch.zeros(1, 3, 4)], [(50, 50)])
    assert found.proposal_boxes.tensor.tolist() == [[0, 0, 10, 10], [20, 20, 40, 40], [-1] * 4]
    assert found.copies.tolist() == [1, 1, 998]


@torch.no_grad()
def test_samples_are_positive_from_half_and_a_quarter_is_learned(toys):
    heads = model_of("fpn").roi_heads.train()
    heads.batch_size_per_image = 8
    # IoU 0.6, 0.5 and 0.4 with the object, which is a proposal itself.
    boxes = torch.tensor([[0.0, 0, 10, 6], [0, 0, 10, 5], [0, 0, 10, 4]])
    target = sample([(0, 0, 10, 10)])["instances"]
    target.gt_classes[:] = 7
    for seed in range(5):
        torch.manual_seed(seed)
        proposals = [Instances((96, 96), proposal_boxes=Boxes(boxes))]
        (found,) = heads.label_and_sample_proposals(proposals, [target])
        heights = found.proposal_boxes.tensor[:, 3]
        assert found.gt_classes.tolist() == torch.where(heights >= 5, 7, 80).tolist()
        # Two draws of positive ones, then what the shuffle leaves: positive ones again.
        assert len(found) == 4
        positive = heights[heights >= 5].sort().values
        assert sorted(heights[found.has_targets].tolist()) == positive[:2].tolist()
    heads.proposal_append_gt = False
    (found,) = heads.label_and_sample_proposals([Instances((96, 96), proposal_boxes=Boxes(boxes))], [target])
    assert set(found.proposal_boxes.tensor[:, 3].tolist()) <= {4, 5, 6}


def test_an_image_without_regions_adds_nothing(toys):
    """Detectron2's first stage may propose none."""
    predictor = model_of("fpn").roi_heads.box_predictor
    nothing = Instances((50, 50), proposal_boxes=Boxes(torch.zeros(0, 4)), gt_boxes=Boxes(torch.zeros(0, 4)))
    nothing.gt_classes, nothing.has_targets = (
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.bool),
    )
    predictions = torch.zeros(0, 81), torch.zeros(0, 320)
    losses = predictor.losses(predictions, [nothing])
    assert losses["loss_cls"] == losses["loss_box_reg"] == 0
    (found,), _ = predictor.inference(predictions, [nothing])
    assert found.pred_boxes.tensor.shape == (0, 4)


def test_masks_of_an_image_have_their_own_mean(toys):
    """As on GPUs with one image each, whose gradients are averaged."""
    head = model_of("fpn").roi_heads.mask_head.train()
    images = []
    for boxes in ([(0, 0, 9, 9)], [(4, 4, 20, 20)] * 3, []):
        found = sample(boxes)["instances"]
        found.proposal_boxes = Boxes(found.gt_boxes.tensor + 1)
        images.append(found)
    regions = torch.rand(4, head.conv_norm_relus[0].in_channels, 7, 7)
    one = head(regions[:1], images[:1])["loss_mask"]
    three = head(regions[1:], images[1:2])["loss_mask"]
    assert head(regions, images)["loss_mask"].item() == pytest.approx((one + three).item() / 3)


def test_losses_of_both_stages_are_divided_by_the_samples(toys):
    model = model_of("fpn").train()
    rpn, predictor = model.proposal_generator, model.roi_heads.box_predictor
    anchors = [Boxes(torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 20], [5, 5, 15, 15]]))]
    logits = [torch.tensor([[0.3, -0.2, 5.0]])]
    deltas = [torch.tensor([[[0.05, 0.3, 0, 0], [9, 9, 9, 9], [9, 9, 9, 9]]])]
    losses = rpn.losses(
        anchors, logits, [torch.tensor([1, 0, -1])], deltas, [torch.tensor([[0.0, 0, 10, 10]] * 3)]
    )
    entropy = math.log(1 + math.exp(-0.3)) + math.log(1 + math.exp(-0.2))
    assert losses["loss_rpn_cls"].item() == pytest.approx(entropy / 2)
    # An anchor that ends at the width of the image leaves it.
    (labels,), _ = rpn.label_and_sample_anchors(anchors, [Instances((20, 20), gt_boxes=anchors[0][:1])])
    assert labels.tolist() == [1, -1, 0]
    # A single threshold separates positive from negative ones.
    alone = model_of("fpn", ["MODEL.RPN.IOU_THRESHOLDS", "[0.2]", "MODEL.RPN.IOU_LABELS", "[0, 1]"])
    (labels,), _ = alone.proposal_generator.label_and_sample_anchors(
        [Boxes(torch.tensor([[0.0, 0, 10, 10], [0, 0, 5, 6], [0, 0, 3, 6]]))],
        [Instances((20, 20), gt_boxes=anchors[0][:1])],
    )
    assert labels.tolist() == [1, 1, 0]
    # So do those that begin before its first pixel, or end at its height.
    corners = [[0.0, 0, 19, 29], [-1, 0, 9, 9], [0, -1, 9, 9], [0, 0, 20, 9], [0, 0, 9, 30], [15, 25, 19, 29]]
    far = Instances((30, 20), gt_boxes=Boxes(torch.tensor([[0.0, 0, 19, 29]])))
    (labels,), _ = rpn.label_and_sample_anchors([Boxes(torch.tensor(corners))], [far])
    assert labels.tolist() == [1, -1, -1, -1, -1, 0]
    # Below 1/9 squared, above linear; divided by both sampled anchors.
    assert losses["loss_rpn_loc"].item() == pytest.approx((0.05**2 * 9 / 2 + 0.3 - 1 / 18) / 2)
    found = Instances((50, 50), proposal_boxes=Boxes(torch.tensor([[0.0, 0, 10, 10]] * 3)))
    found.gt_boxes = Boxes(torch.tensor([[1.0, 0, 11, 10]] * 3))
    found.gt_classes, found.has_targets = torch.tensor([2, 80, 2]), torch.tensor([True, False, False])
    scores, offsets = torch.zeros(3, 81), torch.zeros(3, 320)
    offsets[0, 8:12] = torch.tensor([0.5, 3, 0, 0])
    losses = predictor.losses((scores, offsets), [found])
    assert losses["loss_cls"].item() == pytest.approx(math.log(81))
    # The target of x is 1 pixel of 10, in units of a tenth: 1.
    assert losses["loss_box_reg"].item() == pytest.approx((0.5 * 0.5**2 + 3 - 0.5) / 3)
    # Images are averaged: the second one has no positive anchor or region, and another number of samples.
    both = rpn.losses(
        anchors,
        [logits[0].repeat(2, 1)],
        [torch.tensor([1, 0, -1]), torch.tensor([-1, 0, -1])],
        [deltas[0].repeat(2, 1, 1)],
        [torch.tensor([[0.0, 0, 10, 10]] * 3)] * 2,
    )
    assert both["loss_rpn_cls"].item() == pytest.approx((entropy / 2 + math.log(1 + math.exp(-0.2))) / 2)
    assert both["loss_rpn_loc"].item() == pytest.approx((0.05**2 * 9 / 2 + 0.3 - 1 / 18) / 4)
    # A side grows by at most exp(4.42).
    far = torch.zeros(1, 320)
    far[0, 2] = 1000
    (wide,), _ = predictor.inference((torch.zeros(1, 81), far), [found[torch.tensor([0])]])
    assert wide.pred_boxes.tensor[0, 2].item() == pytest.approx(5 + 5 * math.exp(4.42))
    other = found[torch.tensor([1])]
    both = predictor.losses((torch.zeros(4, 81), torch.cat((offsets, offsets[:1]))), [found, other])
    assert both["loss_cls"].item() == pytest.approx(math.log(81))
    assert both["loss_box_reg"].item() == pytest.approx((0.5 * 0.5**2 + 3 - 0.5) / 6)
    predictor = model_of("fpn", ["MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", "0.5"]).roi_heads.box_predictor
    assert predictor.losses((scores, offsets), [found])["loss_box_reg"].item() == pytest.approx(
        3.25 / 3 - 0.25 / 3
    )
