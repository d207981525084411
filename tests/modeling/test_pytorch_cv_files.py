"""pytorch-cv's files: a network in its layout is saved, and loaded by the zoo entry that links it."""

import re

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from segzoo.checkpoint import key_maps, load_checkpoint
from segzoo.model_zoo import load_config
from segzoo.modeling.backbones.resnet import VARIANTS, ResNetVariant
from tests.modeling.modeling_helpers import random_image, shake
from tests.modeling.pixel_model_helpers import load_published, normalized, pixel_config
from tests.modeling.pixel_peers import R50_V1S, worst_difference
from tests.modeling.pytorch_cv_reference import (
    Classifier,
    DANetHead,
    DeepLabV3Head,
    FCNHead,
    HeadNetwork,
    OCNet,
    PSPHead,
)

# The seven zoo entries with linked files: their networks, with options of the backbone and the head.
ROWS = {
    "voc_2012/fcn_jpu_r101_v1s": lambda base, head: HeadNetwork(FCNHead(21, **head), 21, **base),
    "voc_2012/pspnet_r101_v1s": lambda base, head: HeadNetwork(
        PSPHead(21, in_channels=32 * base.get("width", 64), **head), 21, jpu=False, **base
    ),
    "voc_2012/deeplabv3_jpu_r101_v1s": lambda base, head: HeadNetwork(DeepLabV3Head(21, **head), 21, **base),
    "voc_2012/ocnet_base_jpu_r101_v1s": lambda base, head: OCNet("base", 21, **head, **base),
    "cityscapes/fcn_jpu_r101_v1s": lambda base, head: HeadNetwork(FCNHead(19, **head), 19, **base),
    "cityscapes/pspnet_jpu_r101_v1s": lambda base, head: HeadNetwork(PSPHead(19, **head), 19, **base),
    "cityscapes/deeplabv3_jpu_r101_v1s": lambda base, head: HeadNetwork(
        DeepLabV3Head(19, **head), 19, **base
    ),
}
BATCH_NORM = ["MODEL.BACKBONE.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN"]
NARROW = ResNetVariant("bottleneck", (2, 3, 2, 2), width=16, deep_stem=(16, 16, 32))


@pytest.mark.parametrize("name", ROWS)
def test_every_weight_of_a_linked_file_has_a_parameter_of_its_shape(name):
    with torch.device("meta"):
        peer = ROWS[name]({"blocks": (3, 4, 23, 3)}, {})
        cfg = load_config(f"semantic/{name}", ["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", ""])
        model = build_model(cfg)
    # Not all norms count batches.
    state, own = (
        {key: value for key, value in one.state_dict().items() if not key.endswith("num_batches_tracked")}
        for one in (peer, model)
    )
    found = []
    for key_map in key_maps():
        if key_map.name.startswith("pytorch-cv") and key_map.fits(state):
            placed = {key_map.rename(key): value.shape for key, value in state.items()}
            extra = {key_map.rename(key) for key in state if re.search("|".join(key_map.extras) or "$^", key)}
            found.append({key: shape for key, shape in placed.items() if key in own or key not in extra})
    assert {key: value.shape for key, value in own.items()} in found


def assert_same_outputs(model: nn.Module, peer: nn.Module) -> None:
    # 61 pixels are 8 at stride 8, 83 are 11.
    assert worst_difference(model, peer, [random_image(61, 83)]) < 1e-4
    image = normalized(model, random_image(61, 83))
    with torch.no_grad():
        features = model.backbone(image)
        auxiliary = model.auxiliary_head(model.neck(features) if model.neck is not None else features)
        torch.testing.assert_close(auxiliary["logits"], peer.auxiliary(image), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ROWS)
def test_a_linked_file_loads_as_published_and_predicts_the_same(name, tmp_path, monkeypatch):
    torch.manual_seed(1)
    peer = shake(ROWS[name]({"blocks": NARROW.depths, "width": NARROW.width}, {"channels": 32}).eval())
    for part in peer.modules():
        if isinstance(part, nn.Conv2d):  # keep the scale: narrow networks fade, and hide differences
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    monkeypatch.setitem(VARIANTS, "r101_v1s", NARROW)
    narrow = ["MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    model = build_model(load_config(f"semantic/{name}", [*BATCH_NORM, *narrow]))
    report = load_published(model, peer.state_dict(), tmp_path)
    assert "pytorch-cv" in report.source
    assert_same_outputs(model, peer)
    if "pspnet" in name:
        # With GluonCV's grid of six cells per side it would predict something else, which no name shows.
        model.sem_seg_head.pooling.bins = (1, 2, 3, 6)
        assert worst_difference(model, peer, [random_image(61, 83)]) > 2e-3


def test_danets_file_has_one_classifier(tmp_path, monkeypatch):
    torch.manual_seed(1)
    monkeypatch.setitem(VARIANTS, "r50_v1s", NARROW)
    peer = HeadNetwork(DANetHead(5, channels=32), 5, blocks=NARROW.depths, width=NARROW.width)
    for part in (peer.head.sa, peer.head.sc):
        nn.init.constant_(part.gamma, 0.7)
    peer = shake(peer.eval())
    cfg = pixel_config("danet_pytorch_cv", 5, *R50_V1S, "MODEL.SEM_SEG_HEAD.NORM", "BN")
    cfg.merge_from_list(["MODEL.NECK.NAME", "JPU", "MODEL.BACKBONE.OUTPUT_STRIDE", 32])
    cfg.merge_from_list(["MODEL.SEM_SEG_HEAD.CONVS_DIM", 32])
    model = build_model(cfg)
    report = load_published(model, peer.state_dict(), tmp_path)
    # The branches' classifiers are only for training.
    assert sorted(report.training_only) == [
        f"sem_seg_head.{branch}_predictor.{part}"
        for branch in ("channel", "position")
        for part in ("bias", "weight")
    ]
    report.require_complete()
    assert worst_difference(model, peer, [random_image(61, 83)]) < 1e-4


def test_the_imagenet_file_loads_into_the_backbone(tmp_path, monkeypatch):
    torch.manual_seed(1)
    monkeypatch.setitem(VARIANTS, "r50_v1s", NARROW)
    peer = shake(Classifier(NARROW.depths, NARROW.width).eval())
    torch.save(peer.state_dict(), tmp_path / "resnet50_v1s.pth")
    model = build_model(pixel_config("fcn", 5, *R50_V1S, "MODEL.BACKBONE.OUTPUT_STRIDE", 32))
    report = load_checkpoint(model, tmp_path / "resnet50_v1s.pth")
    assert report.source == "pytorch-cv ImageNet ResNet"
    assert not report.unexpected
    assert not [key for key in report.reinitialized if key.startswith("backbone.")]
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = peer.features[:14](image)
        torch.testing.assert_close(model.eval().backbone(image)["res5"], expected, rtol=1e-3, atol=1e-4)


def test_the_eight_blocks_of_resnet_152s_second_stage_are_mapped():
    key_map = next(one for one in key_maps() if one.name == "pytorch-cv FCN")
    # The children of the first part: ten in the stem, a stage of three blocks, then block by block.
    for block in range(8):
        name = key_map.rename(f"base1.{11 + block}.bn3.weight")
        assert name == f"backbone.res3.{block}.conv3.norm.weight"
