"""Mask R-CNN equals Detectron2's GeneralizedRCNN on the same weights: losses, gradients, results, steps."""

import copy
import re

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.solver import build_optimizer as build_their_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from segzoo.checkpoint.rules_cnn import TORCHVISION_RESNET
from segzoo.data.wanted_targets import TWO_STAGE
from segzoo.engine.analysis import analyze
from segzoo.modeling.backbones import resnet
from segzoo.modeling.batch import Sizes
from segzoo.projects.mask_rcnn import meta_arch
from segzoo.solver import build_optimizer
from segzoo.utils.errors import InputError
from tests.modeling.mask_rcnn_peers import (
    CLASSES,
    SIZES,
    TOY,
    VARIANT,
    build_peers,
    make_inputs,
    no_instances,
    our_config,
)

KINDS = ("c4", "dc5", "fpn")
LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(resnet.VARIANTS, VARIANT, TOY)


def losses_of(model, batch):
    """Return losses and the gradients of a training pass whose samples are drawn from the same state."""
    model.train()
    model.zero_grad(set_to_none=True)
    torch.manual_seed(7)
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    return {name: loss.detach() for name, loss in losses.items()}


def assert_equal_training(peers, batch, rounding=1e-5):
    found, expected = losses_of(peers.ours, batch), losses_of(peers.theirs, batch)
    assert found.keys() == expected.keys() == LOSSES
    for name in LOSSES:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    for name, ours, theirs in peers.named():
        assert (ours.grad is None) == (theirs.grad is None), name
        assert ours.requires_grad == theirs.requires_grad, name
        if ours.grad is not None:
            spread = theirs.grad.abs().max().item()
            torch.testing.assert_close(
                ours.grad, theirs.grad, rtol=1e-4, atol=rounding * spread + 1e-9, msg=name
            )
    return found


@pytest.mark.parametrize("form", ["polygon", "bitmask"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_detectron2s(kind, form):
    losses = assert_equal_training(build_peers(kind), make_inputs(form))
    assert all(loss > 0 for loss in losses.values())


@pytest.mark.parametrize("kind", KINDS)
def test_channels_last_as_on_a_gpu_give_detectron2s_losses_and_gradients(kind, monkeypatch):
    """See `tensor_core_layout`."""
    seen = []

    def channels_last(images):
        seen.append(images.shape)
        return images.contiguous(memory_format=torch.channels_last)

    monkeypatch.setattr(meta_arch, "tensor_core_layout", channels_last)
    assert_equal_training(build_peers(kind), make_inputs("bitmask"), rounding=3e-4)
    assert len(seen) == 1


def test_detectron2s_options_have_its_meaning():
    changes = {
        "MODEL.RPN.BBOX_REG_LOSS_TYPE": "giou",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True,
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.1,
    }
    assert_equal_training(build_peers("dc5", changes), make_inputs("bitmask"))


def test_images_without_instances_train_on_background():
    batch = make_inputs("polygon")
    batch[0]["instances"] = no_instances(SIZES[0])
    peers = build_peers("c4")
    assert_equal_training(peers, batch)
    for one, size in zip(batch, SIZES, strict=True):
        one["instances"] = no_instances(size)
    losses = assert_equal_training(peers, batch)
    assert losses["loss_mask"] == losses["loss_box_reg"] == 0


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_results_are_detectron2s(kind):
    peers = build_peers(kind)
    peers.ours.eval(), peers.theirs.eval()
    for one in make_inputs("bitmask"):  # one by one: Detectron2 pads all to the largest
        (found,), (expected,) = peers.ours([one]), peers.theirs([one])
        found, expected = found["instances"], expected["instances"]
        assert found.image_size == expected.image_size
        assert len(found) == len(expected) > 10
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=0)
        assert torch.equal(found.pred_classes, expected.pred_classes)
        torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-2, rtol=0)
        masks = torch.as_tensor(found.pred_masks)
        assert (masks != expected.pred_masks).float().mean() < 1e-4
        assert 0.001 < masks.float().mean() < 0.9


def test_detections_without_area_are_left_out_as_in_detectron2():
    """Two of them are outside of the image, or empty once the boxes are cut at it."""
    boxes = torch.tensor([[1.0, 2, 9, 12], [-9, 3, -1, 8], [4, 5, 4, 9], [15, 3, 30, 30], [25, 3, 30, 9]])
    detections = Instances((20, 20), pred_boxes=Boxes(boxes), pred_masks=torch.rand(5, 1, 7, 7))
    detections.scores, detections.pred_classes = torch.rand(5), torch.arange(5)
    model, size = build_peers("c4").ours, (40, 60)
    outputs = {"detections": [detections]}
    (found,) = model.postprocess(outputs, [Sizes((20, 20), (20, 20), size)], tasks=(), semantic="")
    found = found["instances"]
    expected = detector_postprocess(copy.deepcopy(detections), *size)
    assert found.pred_classes.tolist() == expected.pred_classes.tolist() == [0, 3]
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(torch.as_tensor(found.pred_masks), expected.pred_masks)


@torch.no_grad()
def test_results_do_not_depend_on_the_batch():
    model = build_peers("c4").ours.eval()
    batch = make_inputs("bitmask")
    together = model(batch)
    for one, result in zip(batch, together, strict=True):
        (alone,) = model([one])
        torch.testing.assert_close(result["instances"].scores, alone["instances"].scores)


def test_learning_rates_and_weight_decay_are_detectron2s():
    peers = build_peers("c4")
    for cfg in (peers.cfg, peers.their_cfg):
        cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM = 0.02, 0.0001, 0.0
        cfg.SOLVER.BIAS_LR_FACTOR, cfg.SOLVER.WEIGHT_DECAY_BIAS = 2.0, 0.0
    peers.cfg.SOLVER.OPTIMIZER = "SGD"

    def settings(optimizer, parameters):
        of = {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                of[id(parameter)] = group["lr"], group["weight_decay"], group["momentum"], group["nesterov"]
        return {name: of.get(id(parameter)) for name, parameter in parameters}

    ours = settings(
        build_optimizer(peers.cfg, peers.ours), ((name, value) for name, value, _ in peers.named())
    )
    theirs = settings(
        build_their_optimizer(peers.their_cfg, peers.theirs),
        ((name, value) for name, _, value in peers.named()),
    )
    assert ours == theirs
    assert None in ours.values()  # frozen
    assert len(set(ours.values())) == 3


def test_losses_need_no_event_storage_and_one_is_used_if_there_is_one():
    model = build_peers("c4").ours.train()
    assert model(make_inputs("polygon")).keys() == LOSSES
    with EventStorage() as storage:
        model(make_inputs("polygon"))
        assert {"rpn/num_pos_anchors", "mask_rcnn/accuracy"} <= storage.latest().keys()


def test_training_images_without_the_target_are_one_line():
    batch = make_inputs("polygon")
    del batch[1]["instances"]
    with pytest.raises(
        InputError, match=r"^training images have no instances, .* INPUT.TARGETS: .*'instances'"
    ):
        build_peers("c4").ours.train()(batch)


def test_its_targets_are_known_without_importing_it():
    from segzoo.projects.mask_rcnn import MaskRCNN

    assert {"MaskRCNN": MaskRCNN.mapper_targets} == TWO_STAGE


def test_operations_are_counted_at_the_largest_number_of_boxes():
    """The parts of the second stage, by hand."""
    peers = build_peers("c4")
    few, many = 10, 50
    counts = []
    for proposals in (few, many):
        peers.ours.proposal_generator.post_nms_topk[False] = proposals
        counts.append(analyze(peers.ours, (64, 96)).total_flops)
    pixels, each = 7 * 7, 0
    for into, inner, out in ((128, 64, 256), (256, 64, 256), (256, 64, 256)):
        shortcut = int(into != out)
        # The stride is in the first convolution.
        each += pixels * inner * (into + 2)  # 2: a frozen norm
        each += pixels * (inner * (9 * inner + 2) + out * (inner + 2) + shortcut * out * (into + 2))
    each += out * (5 + 4 * 4)  # classes and boxes
    assert (counts[1] - counts[0]) / (many - few) == pytest.approx(each)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MODEL.ROI_HEADS.NAME": "Res5RoiHeads"}, "MODEL.ROI_HEADS.NAME 'Res5RoiHeads' is unknown; did you"),
        ({"MODEL.RPN.HEAD_NAME": "RPNHead"}, "MODEL.RPN.HEAD_NAME 'RPNHead' is unknown"),
        ({"MODEL.ROI_MASK_HEAD.NAME": "MaskHead"}, "MODEL.ROI_MASK_HEAD.NAME 'MaskHead' is unknown"),
        ({"MODEL.ROI_BOX_HEAD.NAME": "BoxHead"}, "MODEL.ROI_BOX_HEAD.NAME 'BoxHead' is unknown"),
        ({"MODEL.BACKBONE.NAME": "SwinTransformer", "MODEL.BACKBONE.VARIANT": "tiny"}, "StandardROIHeads"),
        (
            {
                "MODEL.BACKBONE.OUT_FEATURES": "('res3', 'res4')",
                "MODEL.ROI_HEADS.IN_FEATURES": ["res3", "res4"],
            },
            "pools from one feature map",
        ),
        ({"MODEL.MASK_ON": False}, "MODEL.MASK_ON False: MaskRCNN predicts masks"),
        ({"MODEL.RPN.IN_FEATURES": ["res5"]}, "MODEL.RPN.IN_FEATURES has 'res5', but there are res4"),
        (
            {"MODEL.ANCHOR_GENERATOR.NAME": "DefaultAnchors"},
            "MODEL.ANCHOR_GENERATOR.NAME 'DefaultAnchors' is",
        ),
        (
            {"MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64]]},
            "it has lists for 2 levels, but MODEL.RPN.IN_FEATURES",
        ),
        ({"MODEL.ANCHOR_GENERATOR.NAME": "RotatedAnchorGenerator"}, "it is for rotated boxes"),
        ({"MODEL.ROI_HEADS.NAME": "RROIHeads"}, "MODEL.ROI_HEADS.NAME RROIHeads: it is for rotated boxes"),
        (
            {"MODEL.ROI_HEADS.IOU_LABELS": [0, -1, 1]},
            "expected 2 labels, one more than MODEL.ROI_HEADS.IOU_TH",
        ),
        (
            {"MODEL.RPN.BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0, 1.0)},
            "MODEL.RPN.BBOX_REG_WEIGHTS [1.0, 1.0, 1.0, 1.0, 1.0]: expected four",
        ),
        (
            {"MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0, 1.0)},
            "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS [1.0, 1.0, 1.0, 1.0, 1.0]: expected four",
        ),
        ({"MODEL.RPN.IOU_THRESHOLDS": [0.5]}, "MODEL.RPN.IOU_LABELS [0, -1, 1]: expected 2 labels"),
        ({"MODEL.ROI_HEADS.NAME": "StandardROIHeads"}, "MODEL.ROI_BOX_HEAD.NAME '' is unknown"),
    ],
)
def test_wrong_parts_are_one_line(changes, message):
    with pytest.raises(InputError) as caught:
        build_model(our_config("c4", changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


CASCADE = {
    "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 40,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({**CASCADE, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": False}, "set it to True"),
        ({**CASCADE, "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": (0.5, 0.6)}, "one for each of the 3 stages"),
        ({**CASCADE, "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.4]}, "expected the first to be that of"),
        ({"MODEL.ROI_BOX_HEAD.NUM_FC": 0}, "the head of boxes has no layer"),
        ({"MODEL.FPN.TOP_BLOCK": ""}, "p2, p3, p4, p5; see MODEL.FPN.OUT_FEATURES and MODEL.FPN.TOP_BLOCK"),
        ({"MODEL.ROI_MASK_HEAD.NORM": "GN"}, "MODEL.ROI_MASK_HEAD.CONV_DIM 16: expected a multiple of 32"),
        ({"MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p4"]}, "they have strides 4, 16; expected each twice"),
        (
            {"MODEL.ANCHOR_GENERATOR.SIZES": [[8], [16, 24], [32], [64], [96]]},
            "[3, 6, 3, 3, 3] anchors (sizes times ratios) at a location",
        ),
        ({"MODEL.NECK.NAME": "", "MODEL.RPN.IN_FEATURES": ["res4", "res5"]}, "they have 128, 256 channels"),
    ],
)
def test_parts_of_pyramids_that_do_not_fit_are_one_line(changes, message):
    cfg = our_config("fpn", {})
    cfg.merge_from_list([item for pair in changes.items() for item in pair])
    if not cfg.MODEL.NECK.NAME:
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32]]
    with pytest.raises(InputError) as caught:
        build_model(cfg)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cascade_is_detectron2s():
    peers = build_peers("fpn", CASCADE)
    found, expected = (losses_of(model, make_inputs("polygon")) for model in (peers.ours, peers.theirs))
    stages = {f"{loss}_stage{stage}" for loss in ("loss_cls", "loss_box_reg") for stage in range(3)}
    assert found.keys() == expected.keys() == stages | {"loss_rpn_cls", "loss_rpn_loc", "loss_mask"}
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, rtol=1e-5, atol=1e-6)


def test_operations_of_a_cascade_are_those_of_all_its_stages():
    """Two dense layers of 16 and the predictors of classes and one box, by hand."""
    peers = build_peers("fpn", CASCADE)
    few, many = 10, 50
    counts = []
    for proposals in (few, many):
        peers.ours.proposal_generator.post_nms_topk[False] = proposals
        counts.append(analyze(peers.ours, (64, 96)).flops["roi_heads"])
    each = 16 * 7 * 7 * 16 + 16 * 16 + 16 * (CLASSES + 1 + 4)
    assert (counts[1] - counts[0]) / (many - few) == pytest.approx(3 * each)


def test_operations_are_counted_in_their_part():
    """The first stage: a convolution of 3 x 3, scores and offsets of three anchors, on all levels."""
    complexity = analyze(build_peers("fpn").ours, (64, 96))
    assert "other" not in complexity.flops
    pixels = sum((64 // stride) * (96 // stride) for stride in (4, 8, 16, 32)) + 1 * 2
    assert complexity.flops["proposal_generator"] == pytest.approx(pixels * (9 * 16 * 16 + 16 * 3 * 5))


TORCHVISION = (
    (r"^backbone\.body\.", "backbone."),
    *TORCHVISION_RESNET,
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.0\.", lambda match: f"neck.lateral.p{int(match[1]) + 2}."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.0\.", lambda match: f"neck.output.p{int(match[1]) + 2}."),
    (r"^rpn\.head\.conv\.0\.0\.", "proposal_generator.rpn_head.conv."),
    (r"^rpn\.head\.cls_logits\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"^rpn\.head\.bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas."),
    (r"^roi_heads\.box_head\.fc([67])\.", lambda match: f"roi_heads.box_head.fc{int(match[1]) - 5}."),
    (r"^roi_heads\.mask_head\.(\d)\.0\.", lambda match: f"roi_heads.mask_head.mask_fcn{int(match[1]) + 1}."),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "roi_heads.mask_head.deconv."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "roi_heads.mask_head.predictor."),
)


def from_torchvision(state):
    """Return torchvision's weights for our model: its background is the first class, and regressed too."""
    weights = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in TORCHVISION:
            name = re.sub(pattern, replacement, name)
        if ".cls_score." in name:
            value = torch.cat([value[1:], value[:1]])
        elif ".box_predictor.bbox_pred." in name:
            value = value[4:]
        elif ".mask_head.predictor." in name:
            value = value[1:]
        weights[name] = value
    return weights


@torch.no_grad()
def test_detections_are_torchvisions():
    """Its options: regions without the shift by half a pixel, two samples a bin, and rounded anchors."""
    detection = pytest.importorskip("torchvision.models.detection")
    torch.manual_seed(0)
    limits = {"rpn_pre_nms_top_n_test": 100, "rpn_post_nms_top_n_test": 30, "box_score_thresh": 0.15}
    limits["box_detections_per_img"] = 20
    theirs = detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, **limits
    ).eval()
    for name, value in theirs.named_parameters():
        if name.endswith("conv3.weight"):
            value.mul_(0.3)
        if name.endswith(("cls_score.weight", "mask_fcn_logits.weight", "cls_logits.weight")):
            value.normal_(std=0.1)
    changes = {
        **{"MODEL.FPN.OUT_CHANNELS": 256, "MODEL.ROI_MASK_HEAD.NUM_CONV": 4},
        **{"MODEL.ROI_MASK_HEAD.CONV_DIM": 256, "MODEL.ROI_BOX_HEAD.FC_DIM": 1024},
        **{f"MODEL.ROI_{head}_HEAD.POOLER_TYPE": "ROIAlign" for head in ("BOX", "MASK")},
        **{f"MODEL.ROI_{head}_HEAD.POOLER_SAMPLING_RATIO": 2 for head in ("BOX", "MASK")},
        **{"MODEL.RPN.PRE_NMS_TOPK_TEST": 100, "MODEL.RPN.POST_NMS_TOPK_TEST": 30},
        "TEST.DETECTIONS_PER_IMAGE": 20,
        **{"MODEL.BACKBONE.VARIANT": "r50", "MODEL.BACKBONE.STRIDE_IN_1X1": False},
    }
    cfg = our_config("fpn", changes)
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0] * 3, [1.0] * 3
    ours = build_model(cfg).eval()
    fit = ours.load_state_dict(from_torchvision(theirs.state_dict()), strict=False)
    assert fit.missing_keys == fit.unexpected_keys == []
    for anchors in ours.proposal_generator.anchor_generator.cell_anchors:
        anchors.copy_(anchors.round())

    image = torch.randn(1, 3, 128, 192)  # multiples of 64: torchvision derives strides from the maps' sizes
    features = theirs.backbone(image)
    images = detection.image_list.ImageList(image, [(128, 192)])
    proposals, _ = theirs.rpn(images, features)
    (expected,), _ = theirs.roi_heads(features, proposals, images.image_sizes)
    (found,) = ours.raw_outputs([{"image": image[0]}])["detections"]
    assert len(found) == len(expected["scores"]) > 10
    torch.testing.assert_close(found.scores, expected["scores"], atol=1e-5, rtol=1e-4)
    assert torch.equal(found.pred_classes, expected["labels"] - 1)
    torch.testing.assert_close(found.pred_boxes.tensor, expected["boxes"], atol=1e-2, rtol=0)
    torch.testing.assert_close(found.pred_masks, expected["masks"], atol=1e-4, rtol=0)
