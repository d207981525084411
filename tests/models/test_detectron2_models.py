"""Detectron2's own meta-architectures predict, and are tested under protocols, without changes."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from segzoo.config.load import new_config
from segzoo.engine import Predictor
from segzoo.engine.analysis import analyze
from segzoo.export.torch_export import export_program
from segzoo.modeling import as_segmentor
from segzoo.modeling.protocols import build_protocol_model
from segzoo.utils.errors import InputError

CLASSES = 5


def detectron2_model(architecture: str):
    """Build a model with a small FPN on ResNet-18 and random weights."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.RPN.HEAD_NAME = "StandardRPNHead"
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = CLASSES
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 1, 16
    cfg.MODEL.MASK_ON = architecture == "GeneralizedRCNN"
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV, cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 1, 16
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = CLASSES, 32
    torch.manual_seed(0)
    return build_model(cfg).eval()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)


def test_a_semantic_model_predicts_with_the_given_channel_order_and_under_protocols(pixels):
    model = detectron2_model("SemanticSegmentor")
    # It has no attribute for its channel order, BGR.
    predictor = Predictor(as_segmentor(model, input_format="BGR"))
    with torch.no_grad():
        bgr = torch.from_numpy(pixels[..., ::-1].transpose(2, 0, 1).copy())
        inputs = [{"image": bgr, "height": 70, "width": 90}]
        expected = model(inputs)[0]["sem_seg"]
    assert torch.equal(predictor(pixels, color="RGB")["sem_seg"], expected)
    labels = predictor(pixels, color="RGB", semantic="labels")
    assert set(labels) == {"sem_seg_labels"}
    assert torch.equal(labels["sem_seg_labels"].long(), expected.argmax(0))
    cfg = new_config()
    cfg.TEST.TASKS, cfg.TEST.PROTOCOL = ("semantic",), "gluon_testval"
    tested = build_protocol_model(cfg, model)
    torch.testing.assert_close(tested(inputs)[0]["sem_seg"], expected.softmax(0), atol=1e-5, rtol=1e-4)


def test_a_detector_predicts_instances_and_reports_unsupported_actions_in_one_line(pixels):
    model = detectron2_model("GeneralizedRCNN")
    instances = Predictor(model)(pixels, color="RGB")["instances"]
    with torch.no_grad():
        bgr = torch.from_numpy(pixels[..., ::-1].transpose(2, 0, 1).copy())
        expected = model([{"image": bgr, "height": 70, "width": 90}])[0]["instances"]
    assert torch.equal(instances.scores, expected.scores)
    assert instances.image_size == (70, 90)
    assert instances.pred_masks.shape[1:] == (70, 90)
    for attempt in (lambda: analyze(model, (64, 64)), lambda: export_program(model, (64, 64))):
        with pytest.raises(InputError, match="GeneralizedRCNN has no raw_outputs") as caught:
            attempt()
        assert "\n" not in str(caught.value)
