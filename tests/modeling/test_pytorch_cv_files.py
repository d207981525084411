"""pytorch-cv's files: a network of its layout is saved, and loaded by the row of the zoo that links it."""

import pytest
import torch
from detectron2.modeling import build_model
from modeling_helpers import random_image, shake
from pixel_model_helpers import load_published, normalised, pixel_config
from pixel_peers import R50_V1S, worst_difference
from pytorch_cv_reference import Classifier, DANetHead, DeepLabV3Head, FCNHead, HeadNetwork, OCNet, PSPHead
from torch import nn

from segzoo.checkpoint import key_maps, load_checkpoint
from segzoo.model_zoo import load_config

SMALLER = ["MODEL.BACKBONE.VARIANT", "r50_v1s", "MODEL.BACKBONE.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN"]
# The seven rows whose files are linked. Their files differ from these in the depth of the backbone.
ROWS = {
    "voc_2012/fcn_jpu_r101_v1s": lambda: HeadNetwork(FCNHead(21), 21),
    "voc_2012/pspnet_r101_v1s": lambda: HeadNetwork(PSPHead(21), 21, jpu=False),
    "voc_2012/deeplabv3_jpu_r101_v1s": lambda: HeadNetwork(DeepLabV3Head(21), 21),
    "voc_2012/ocnet_base_jpu_r101_v1s": lambda: OCNet("base", 21),
    "cityscapes/fcn_jpu_r101_v1s": lambda: HeadNetwork(FCNHead(19), 19),
    "cityscapes/pspnet_jpu_r101_v1s": lambda: HeadNetwork(PSPHead(19), 19),
    "cityscapes/deeplabv3_jpu_r101_v1s": lambda: HeadNetwork(DeepLabV3Head(19), 19),
}


def assert_same_outputs(model: nn.Module, peer: nn.Module) -> None:
    # 61 pixels are 8 of stride 8, 83 are 11.
    assert worst_difference(model, peer, [random_image(61, 83)]) < 1e-4
    image = normalised(model, random_image(61, 83))
    with torch.no_grad():
        features = model.backbone(image)
        auxiliary = model.auxiliary_head(model.neck(features) if model.neck is not None else features)
        torch.testing.assert_close(auxiliary["logits"], peer.auxiliary(image), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ROWS)
def test_the_file_of_a_row_loads_as_published_and_predicts_the_same(name, tmp_path):
    torch.manual_seed(1)
    peer = shake(ROWS[name]().eval())
    cfg = load_config(f"semantic/{name}", [*SMALLER, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    model = build_model(cfg)
    report = load_published(model, peer.state_dict(), tmp_path)
    assert "pytorch-cv" in report.source
    assert_same_outputs(model, peer)
    if "pspnet" in name:
        # With GluonCV's grid of six cells a side it would predict something else, which no name tells.
        model.sem_seg_head.pooling.bins = (1, 2, 3, 6)
        assert worst_difference(model, peer, [random_image(61, 83)]) > 2e-4


def test_danets_file_has_one_classifier(tmp_path):
    torch.manual_seed(1)
    peer = HeadNetwork(DANetHead(5), 5)
    for part in (peer.head.sa, peer.head.sc):
        nn.init.constant_(part.gamma, 0.7)
    peer = shake(peer.eval())
    cfg = pixel_config("danet_pytorch_cv", 5, *R50_V1S, "MODEL.SEM_SEG_HEAD.NORM", "BN")
    cfg.merge_from_list(["MODEL.NECK.NAME", "JPU", "MODEL.BACKBONE.OUTPUT_STRIDE", 32])
    model = build_model(cfg)
    report = load_published(model, peer.state_dict(), tmp_path)
    # The branches' own are for training.
    assert sorted(report.training_only) == [
        f"sem_seg_head.{branch}_predictor.{kind}"
        for branch in ("channel", "position")
        for kind in ("bias", "weight")
    ]
    report.require_complete()
    assert worst_difference(model, peer, [random_image(61, 83)]) < 1e-4


def test_the_imagenet_file_fills_the_backbone(tmp_path):
    torch.manual_seed(1)
    peer = shake(Classifier().eval())
    torch.save(peer.state_dict(), tmp_path / "resnet50_v1s.pth")
    model = build_model(pixel_config("fcn", 5, *R50_V1S, "MODEL.BACKBONE.OUTPUT_STRIDE", 32))
    report = load_checkpoint(model, tmp_path / "resnet50_v1s.pth")
    assert report.source == "pytorch-cv ImageNet ResNet"
    assert not report.unexpected
    assert not [key for key in report.reinitialised if key.startswith("backbone.")]
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = peer.features[:14](image)
        torch.testing.assert_close(model.eval().backbone(image)["res5"], expected, rtol=1e-3, atol=1e-4)


def test_the_eight_blocks_of_resnet_152s_second_stage_have_their_places():
    key_map = next(one for one in key_maps() if one.name == "pytorch-cv FCN")
    # The children of the first part: ten of the stem, a stage of three blocks, then block by block.
    for block in range(8):
        name = key_map.rename(f"base1.{11 + block}.bn3.weight")
        assert name == f"backbone.res3.{block}.conv3.norm.weight"
