"""Detectron2's files of Mask R-CNN: their complete keys, how they load, and the published numbers."""

import pickle

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem

from segzoo.checkpoint import load_checkpoint
from segzoo.model_zoo import load_config
from segzoo.model_zoo.registry import known_models
from segzoo.modeling.backbones import resnet
from tests.config.their_files import DETECTORS, write_their_file
from tests.modeling.mask_rcnn_peers import TOY, VARIANT, build_peers, renamed

# box AP, mask AP, id and first digits of the md5 in MODEL_ZOO.md of Detectron2.
PUBLISHED = {
    "coco/mask_rcnn_c4_r50": (36.8, 32.2, "137259246", "9243eb"),
    "coco/mask_rcnn_dc5_r50": (38.3, 34.2, "137260150", "4f86c3"),
    "coco/mask_rcnn_fpn_r50": (38.6, 35.2, "137260431", "a54504"),
    "coco/mask_rcnn_c4_r50_3x": (39.8, 34.4, "137849525", "4ce675"),
    "coco/mask_rcnn_dc5_r50_3x": (40.0, 35.9, "137849551", "84107b"),
    "coco/mask_rcnn_fpn_r50_3x": (41.0, 37.2, "137849600", "f10217"),
    "coco/mask_rcnn_c4_r101_3x": (42.6, 36.7, "138363239", "a2914c"),
    "coco/mask_rcnn_dc5_r101_3x": (41.9, 37.3, "138363294", "0464b7"),
    "coco/mask_rcnn_fpn_r101_3x": (42.9, 38.6, "138205316", "a3ec72"),
    "coco/mask_rcnn_fpn_x101_32x8d_3x": (44.3, 39.5, "139653917", "2d9806"),
    "coco/mask_rcnn_fpn_r50_scratch_100ep": (44.6, 40.3, "42047764", "bb69de"),
    "coco/mask_rcnn_fpn_r50_scratch_200ep": (46.3, 41.7, "42047638", "89a8d3"),
    "coco/mask_rcnn_fpn_r50_scratch_400ep": (47.4, 42.5, "42019571", "14d201"),
    "coco/mask_rcnn_fpn_r101_scratch_100ep": (46.4, 41.6, "42025812", "4f7b58"),
    "coco/mask_rcnn_fpn_r101_scratch_200ep": (48.0, 43.1, "42131867", "0bb7ae"),
    "coco/mask_rcnn_fpn_r101_scratch_400ep": (48.9, 43.7, "42073830", "f96b26"),
    "coco/mask_rcnn_fpn_regnetx_4gf_scratch_100ep": (46.0, 41.3, "42047771", "b7fbab"),
    "coco/mask_rcnn_fpn_regnetx_4gf_scratch_200ep": (48.1, 43.1, "42132721", "5d87c1"),
    "coco/mask_rcnn_fpn_regnetx_4gf_scratch_400ep": (48.6, 43.5, "42025447", "f1362d"),
    "coco/mask_rcnn_fpn_regnety_4gf_scratch_100ep": (46.1, 41.6, "42047784", "6ba57e"),
    "coco/mask_rcnn_fpn_regnety_4gf_scratch_200ep": (47.8, 43.0, "42047642", "27b9c1"),
    "coco/mask_rcnn_fpn_regnety_4gf_scratch_400ep": (48.2, 43.3, "42045954", "ef3a80"),
    "cityscapes/mask_rcnn_fpn_r50": (None, 36.5, "142423278", "af9cf5"),
    "coco/mask_rcnn_fpn_dconv_r50": (41.5, 37.5, "138602867", "65c703"),
    "coco/mask_rcnn_fpn_dconv_r50_3x": (42.7, 38.5, "144998336", "821d0b"),
    "coco/mask_rcnn_fpn_gn_r50_3x": (42.6, 38.6, "138602888", "dc5d9e"),
    "coco/mask_rcnn_fpn_syncbn_r50_3x": (41.9, 37.8, "169527823", "3b3c51"),
}


def test_the_rows_have_the_published_numbers_and_files():
    rows = {name: info for name, info in known_models().items() if info.method == "Mask R-CNN"}
    found = {name.removeprefix("instance/"): info for name, info in rows.items()}
    assert PUBLISHED.keys() <= found.keys()
    for name, (box, mask, model_id, digits) in PUBLISHED.items():
        info = found[name]
        numbers = {one.metric: one.value for one in info.published}
        assert (numbers.get("box AP"), numbers["AP"]) == (box, mask), name
        assert (info.model_id, info.license) == (model_id, "CC BY-SA 3.0")
        assert info.url.startswith("https://dl.fbaipublicfiles.com/detectron2/")
        assert info.url.endswith(f"/{model_id}/model_final_{digits}.pkl")


# Detectron2's deformable convolution needs its compiled operators even to be built.
BUILT_BY_BOTH = [leaf for leaf in DETECTORS if "dconv" not in leaf]


@pytest.mark.parametrize("leaf", BUILT_BY_BOTH)
def test_every_weight_of_detectron2s_network_has_its_place(leaf, tmp_path):
    """Names and shapes of the full network, on the meta device."""
    theirs = get_cfg()
    theirs.merge_from_file(str(write_their_file(tmp_path / "theirs.yaml", *DETECTORS[leaf])))
    ours = load_config(leaf)
    for cfg in (theirs, ours):
        cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        published, model = build_model(theirs).state_dict(), build_model(ours).state_dict()
    assert len(published) > 200
    assert {renamed(name): value.shape for name, value in published.items()} == {
        name: value.shape for name, value in model.items()
    }


REGNETS = {
    "regnetx_4gf": {"depth": 23, "w_a": 38.65, "w_0": 96, "w_m": 2.43, "group_width": 40},
    "regnety_4gf": {"depth": 22, "w_a": 31.41, "w_0": 96, "w_m": 2.24, "group_width": 64, "se_ratio": 0.25},
}


def from_scratch_network(backbone):
    """Build Detectron2's from-scratch model, which it configures in Python."""
    theirs = get_cfg()
    values = DETECTORS["instance/coco/mask_rcnn_fpn_r50"]
    for part in values:
        theirs.merge_from_list([item for pair in part.items() for item in pair if "DATASETS" not in pair[0]])
    model = theirs.MODEL
    model.DEVICE, model.RPN.CONV_DIMS, model.FPN.NORM = "meta", [-1, -1], "SyncBN"
    model.ROI_BOX_HEAD.NUM_CONV, model.ROI_BOX_HEAD.NUM_FC = 4, 1
    model.ROI_BOX_HEAD.NORM = model.ROI_MASK_HEAD.NORM = "naiveSyncBN_N"
    model.BACKBONE.FREEZE_AT = 0
    model.RESNETS.NORM, model.RESNETS.DEPTH = "SyncBN", 101 if backbone == "r101" else 50
    with torch.device("meta"):
        network = build_model(theirs)
        if backbone in REGNETS:
            bottom_up = RegNet(
                stem_class=SimpleStem,
                stem_width=32,
                block_class=ResBottleneckBlock,
                norm="SyncBN",
                out_features=["s1", "s2", "s3", "s4"],
                **REGNETS[backbone],
            )
            network.backbone = FPN(
                bottom_up, bottom_up._out_features, 256, norm="SyncBN", top_block=LastLevelMaxPool()
            )
    return network


@pytest.mark.parametrize("backbone", ["r50", "r101", *REGNETS])
def test_every_weight_of_the_from_scratch_models_has_its_place(backbone):
    ours = load_config(f"instance/coco/mask_rcnn_fpn_{backbone}_scratch_100ep")
    ours.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(ours).state_dict()
    published = from_scratch_network(backbone).state_dict()
    assert {renamed(name): value.shape for name, value in published.items()} == {
        name: value.shape for name, value in model.items()
    }


@pytest.mark.parametrize(
    ("epochs", "factor"),
    [(100, 1), (200, 2), (400, 4)],
)
def test_schedules_from_scratch_are_scaled_as_a_whole(epochs, factor):
    """Detectron2 states the warm-up as a share of the schedule, 500 of 184,375 iterations."""
    cfg = load_config(f"instance/coco/mask_rcnn_fpn_r50_scratch_{epochs}ep")
    solver = cfg.SOLVER
    assert 184375 * factor == solver.MAX_ITER
    assert list(solver.STEPS) == [163889 * factor, 177546 * factor]
    assert solver.MAX_ITER * 500 / 184375 == solver.WARMUP_ITERS
    found = (solver.IMS_PER_BATCH, solver.BASE_LR, solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM)
    assert found == (64, 0.1, 4e-5, 0.0)
    assert (solver.WARMUP_FACTOR, solver.AMP.ENABLED, cfg.MODEL.BACKBONE.FREEZE_AT) == (0.067, True, 0)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(resnet.VARIANTS, VARIANT, TOY)


def published_file(model, path):
    """Write the weights as Detectron2 publishes them: numpy arrays, old files with their anchors."""
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    weights["pixel_mean"] = np.zeros((3, 1, 1), np.float32)
    weights["proposal_generator.anchor_generator.cell_anchors.0"] = np.zeros((3, 4), np.float32)
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "Detectron2 Model Zoo"}))
    return path


@pytest.mark.parametrize("kind", ["c4", "dc5", "fpn"])
def test_a_published_file_loads_completely(kind, toy, tmp_path):
    peers = build_peers(kind)
    with torch.no_grad():
        for value in peers.ours.parameters():
            value.zero_()
    report = load_checkpoint(peers.ours, published_file(peers.theirs, tmp_path / "model_final.pkl"))
    assert [*report.missing, *report.unexpected, *report.mismatched, *report.reinitialized] == []
    assert report.source == ("Detectron2 Mask R-CNN" if kind == "fpn" else "native")
    for name, ours, theirs in peers.named():
        assert torch.equal(ours, theirs), name


def test_other_classes_start_anew_and_the_rest_is_loaded(toy, tmp_path):
    file = published_file(build_peers("fpn").theirs, tmp_path / "model_final.pkl")
    peers = build_peers("fpn", {"MODEL.ROI_HEADS.NUM_CLASSES": 2})
    report = load_checkpoint(peers.ours, file)
    heads = ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_head.predictor")
    expected = {f"roi_heads.{head}.{kind}" for head in heads for kind in ("weight", "bias")}
    assert set(report.reinitialized) == expected
    assert report.other_numbers == ["4 classes -> 2"]


@pytest.mark.parametrize("folded", [False, True])
def test_imagenet_weights_reach_the_stage_in_the_heads(folded, toy, tmp_path):
    """A C4 detector has res5 in its second stage; in Caffe's files norms have no running statistics."""
    peers = build_peers("c4")
    weights = {}
    for name, value in peers.theirs.state_dict().items():
        if name.startswith(("backbone.", "roi_heads.res5.")):
            short = name.removeprefix("backbone.").removeprefix("roi_heads.")
            if folded:
                if "running_" in short:
                    continue
                short = short.replace("stem.conv1.norm.", "res_conv1_bn_").replace("stem.conv1.", "conv1_")
                for old, new in (("shortcut", "branch1"), ("conv1", "branch2a"), ("conv2", "branch2b")):
                    short = short.replace(f".{old}.", f"_{new}_")
                short = short.replace(".conv3.", "_branch2c_").replace("norm.", "bn_")
                short = short.replace("bn_weight", "bn_s").replace("bn_bias", "bn_b").replace("weight", "w")
                short = short.replace("conv1_w", "conv1_w").replace(".", "_")
            weights[short] = value.numpy()
    weights["fc1000_w" if folded else "stem.fc.weight"] = np.zeros((2, 2), np.float32)
    file = tmp_path / "R-50.pkl"
    file.write_bytes(pickle.dumps({"model": weights, "__author__": "Caffe2", "matching_heuristics": True}))
    with torch.no_grad():
        for value in peers.ours.parameters():
            value.zero_()
    report = load_checkpoint(peers.ours, file)
    assert [*report.missing, *report.unexpected, *report.mismatched] == []
    assert not [key for key in report.reinitialized if "res5" in key or key.startswith("backbone.")]
    for name, ours, theirs in peers.named():
        if "res" in name or "stem" in name:
            assert torch.equal(ours, theirs), name
