"""The configurations of the convolutional methods say what their sources say: recipe, sizes, protocol.

Every number here is typed from the published recipes and not from the files under test.
"""

from typing import NamedTuple

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from segzoo.engine import Trainer
from segzoo.engine.evaluation_loop import check_best_metric
from segzoo.model_zoo import load_config
from segzoo.modeling.protocols import build_inference_protocol
from segzoo.solver import build_optimizer
from segzoo.utils.errors import InputError

IMAGES = {
    "semantic/ade20k": 20210,
    "semantic/voc_2012": 10582,
    "semantic/cityscapes": 2975,
    "semantic/coco_21": 118287,
    "semantic/pascal_context": 4996,
}
VOC_TRAINVAL = 2913


class Recipe(NamedTuple):
    """What one source does on one dataset."""

    augmentation: str
    lr: float
    batch: int
    epochs: int
    crop: int
    base: int  # training's, but semseg's, which has one for the test only
    head_multiplier: float
    protocol: str
    auxiliary_weight: float | None  # None: no auxiliary head
    images: int = 0
    decay: float = 1e-4


def semseg(epochs: int, crop: int, base: int) -> Recipe:
    return Recipe("semseg", 0.01, 16, epochs, crop, base, 10.0, "semseg_ss", 0.4)


def pytorch_cv(
    lr: float, batch: int, epochs: int, crop: int, base: int, weight: float | None = 0.5
) -> Recipe:
    return Recipe("gluon_short", lr, batch, epochs, crop, base, 10.0, "gluon_testval", weight)


def gluon(
    lr: float,
    epochs: int,
    crop: int = 480,
    base: int = 520,
    heads: float = 10.0,
    weight: float | None = 1.0,
    images: int = 0,
    gpus: int = 4,
) -> Recipe:
    """Per mean gradient: the trainer's step is lr * GPUs / 16 of it, and lr * 0.0001 of the weights."""
    lr, decay = lr * gpus / 16, 1e-4 * 16 / gpus
    return Recipe("gluon_long", lr, 16, epochs, crop, base, heads, "gluon_testval", weight, images, decay)


VOC = {"epochs": 50, "crop": 480, "base": 540}
CITYSCAPES = {"epochs": 120, "crop": 768, "base": 1024}

SEMSEG = {
    **{f"semantic/ade20k/pspnet_{r}_v1s_100ep": semseg(100, 473, 512) for r in ("r50", "r101")},
    **{f"semantic/ade20k/psanet_{r}_v1s_100ep": semseg(100, 465, 512) for r in ("r50", "r101")},
    **{f"semantic/voc_2012/pspnet_{r}_v1s_50ep": semseg(50, 473, 512) for r in ("r50", "r101")},
    **{f"semantic/voc_2012/psanet_{r}_v1s_50ep": semseg(50, 465, 512) for r in ("r50", "r101")},
    **{f"semantic/cityscapes/pspnet_{r}_v1s_200ep": semseg(200, 713, 2048) for r in ("r50", "r101")},
    **{f"semantic/cityscapes/psanet_{r}_v1s_200ep": semseg(200, 705, 2048) for r in ("r50", "r101")},
}
# Learning rate: a table's / 8 for each image of the batch; 0.001 on VOC and Context, 0.01 on Cityscapes.
PYTORCH_CV = {
    "semantic/voc_2012/fcn_jpu_r101_v1s": pytorch_cv(0.008, 64, **VOC),
    "semantic/voc_2012/pspnet_r101_v1s": pytorch_cv(0.004, 32, **VOC),
    "semantic/voc_2012/deeplabv3_jpu_r101_v1s": pytorch_cv(0.004, 32, **VOC),
    "semantic/voc_2012/danet_jpu_r101_v1s": pytorch_cv(0.004, 32, **VOC, weight=None),
    "semantic/voc_2012/bisenet_r18_v1b": pytorch_cv(0.016, 128, **VOC, weight=None),
    "semantic/voc_2012/ocnet_base_jpu_r101_v1s": pytorch_cv(0.004, 32, **VOC),
    "semantic/voc_2012/ccnet_jpu_r101_v1s": pytorch_cv(0.004, 32, **VOC),
    "semantic/cityscapes/fcn_jpu_r101_v1s": pytorch_cv(0.04, 32, **CITYSCAPES),
    "semantic/cityscapes/pspnet_jpu_r101_v1s": pytorch_cv(0.02, 16, **CITYSCAPES),
    "semantic/cityscapes/deeplabv3_jpu_r101_v1s": pytorch_cv(0.04, 32, **CITYSCAPES),
    "semantic/cityscapes/danet_jpu_r101_v1s": pytorch_cv(0.04, 32, **CITYSCAPES, weight=None),
    "semantic/cityscapes/ocnet_base_jpu_r101_v1s": pytorch_cv(0.04, 32, **CITYSCAPES),
    "semantic/cityscapes/bisenet_r18_v1b": pytorch_cv(0.08, 64, **CITYSCAPES, weight=None),
    "semantic/pascal_context/pspnet_jpu_r50_v1s": pytorch_cv(0.004, 32, 80, 480, 540),
}
COCO_MODELS = ("fcn_r101", "pspnet_r101", "deeplabv3_r101", "deeplabv3_r152")
LONG = {"epochs": 240, "crop": 768, "base": 2048, "gpus": 8}
GLUON = {
    **{
        f"semantic/ade20k/{method}_{r}_v1s_120ep": gluon(0.01, 120)
        for method in ("fcn", "pspnet", "deeplabv3")
        for r in ("r50", "r101")
    },
    **{f"semantic/coco_21/{model}_v1s_30ep": gluon(0.01, 30) for model in COCO_MODELS},
    **{f"semantic/voc_2012/{model}_v1s_coco": gluon(0.001, 50) for model in COCO_MODELS},
    **{
        f"semantic/voc_2012/{model}_v1s_coco_trainval": gluon(0.0001, 50, images=VOC_TRAINVAL)
        for model in COCO_MODELS
    },
    **{
        f"semantic/cityscapes/{model}_v1s_240ep": gluon(0.01, **LONG)
        for model in ("pspnet_r101", "deeplabv3_r50", "deeplabv3_r101")
    },
    **{
        f"semantic/cityscapes/danet_{r}_v1s_240ep": gluon(0.01, **LONG, heads=1.0, weight=None)
        for r in ("r50", "r101")
    },
    "semantic/cityscapes/deeplabv3plus_wrn38_240ep": gluon(0.01, **LONG, heads=1.0, weight=None),
}
TORCHVISION = {
    f"semantic/coco_21/{method}_{r}": Recipe("gluon_short", 0.02, 32, 30, 480, 520, 1.0, "", 0.5)
    for method in ("fcn", "deeplabv3")
    for r in ("r50", "r101")
}
LEAVES = {**SEMSEG, **PYTORCH_CV, **GLUON, **TORCHVISION}


@pytest.mark.parametrize(("name", "recipe"), LEAVES.items())
def test_recipe_is_the_published_one(name, recipe):
    cfg = load_config(name)
    images = recipe.images or IMAGES[name.rsplit("/", 1)[0]]
    expected = {
        "SOLVER.OPTIMIZER": "SGD",
        "SOLVER.MOMENTUM": 0.9,
        "SOLVER.WEIGHT_DECAY": recipe.decay,
        "SOLVER.WEIGHT_DECAY_NORM": recipe.decay,
        "SOLVER.BASE_LR": recipe.lr,
        "SOLVER.BACKBONE_MULTIPLIER": 1.0,
        "SOLVER.HEAD_MULTIPLIER": recipe.head_multiplier,
        "SOLVER.IMS_PER_BATCH": recipe.batch,
        "SOLVER.MAX_ITER": recipe.epochs * (images // recipe.batch),
        "SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR",
        "SOLVER.POLY_LR_POWER": 0.9,
        "SOLVER.WARMUP_ITERS": 200 if name in PYTORCH_CV else 0,
        "INPUT.AUGMENTATION": recipe.augmentation,
        "INPUT.CROP_SIZE": [recipe.crop, recipe.crop],
        "INPUT.SCALE_RANGE": [0.5, 2.0],
        "TEST.INFERENCE.BASE_SIZE" if name in SEMSEG else "INPUT.BASE_SIZE": recipe.base,
        "TEST.PROTOCOL": recipe.protocol,
        "MODEL.SEM_SEG_HEAD.NORM": "SyncBN",
        "MODEL.SEM_SEG_HEAD.ALIGN_CORNERS": name not in TORCHVISION,
        "MODEL.AUX_HEAD.NAME": "" if recipe.auxiliary_weight is None else "FCNHead",
    }
    if recipe.auxiliary_weight is not None:
        expected["MODEL.AUX_HEAD.LOSS_WEIGHT"] = recipe.auxiliary_weight
    assert {key: value_of(cfg, key) for key in expected} == expected


@pytest.mark.parametrize("name", [name for name in LEAVES if "wrn38" not in name])
def test_backbone_is_dilated_as_in_its_source_or_not_at_all(name):
    model = name.rsplit("/", 1)[1]
    bisenet, jpu = model.startswith("bisenet"), "_jpu_" in model
    depth = next(part for part in model.split("_") if part[0] == "r" and part[1:].isdigit())
    letter = "" if name in TORCHVISION else "_v1b" if bisenet else "_v1s"
    expected = {
        "MODEL.NECK.NAME": "JPU" if jpu else "",
        "MODEL.BACKBONE.OUTPUT_STRIDE": 32 if jpu or bisenet else 8,
        "MODEL.BACKBONE.VARIANT": depth + letter,
        "MODEL.BACKBONE.NORM": "SyncBN",
    }
    if expected["MODEL.BACKBONE.OUTPUT_STRIDE"] == 8:
        expected["MODEL.BACKBONE.DILATION_STYLE"] = "uniform" if name in SEMSEG else "contract"
    cfg = load_config(name)
    assert {key: value_of(cfg, key) for key in expected} == expected


@pytest.mark.parametrize(("name", "recipe"), [*SEMSEG.items(), *PYTORCH_CV.items(), *GLUON.items()])
def test_all_protocols_of_the_source_are_complete(name, recipe):
    presets = ("semseg_ss", "semseg_ms") if name in SEMSEG else ("gluon_testval", "gluon_val")
    for preset in presets:
        protocol = build_inference_protocol(load_config(name, ["TEST.PROTOCOL", preset]))
        if preset != "gluon_testval":
            assert protocol.crop_size == (recipe.crop, recipe.crop)
        if preset.startswith("semseg"):
            assert (protocol.flip, protocol.base_size) == (True, recipe.base)
            # Two thirds of 473, 713, 465 and 705, rounded up.
            stride = {473: 316, 713: 476, 465: 310, 705: 470}[recipe.crop]
            assert protocol.window_stride == (stride, stride)


@pytest.mark.parametrize("name", [name for name in SEMSEG if "_r50_" in name])
def test_semsegs_heads_accept_their_crop_and_no_other(name):
    head = on_meta(name).sem_seg_head
    crop = SEMSEG[name].crop
    head.check_crop(crop, crop)
    # 709 is what semseg's table says for PSANet on Cityscapes, and its code refuses.
    for wrong in (crop + 1, 709, 512):
        with pytest.raises(InputError, match=r"8 k \+ 1|INPUT\.CROP_SIZE"):
            head.check_crop(wrong, wrong)
    if "psanet" in name:
        assert head.mask_size == ((59, 59) if crop == 465 else (89, 89))


@pytest.mark.parametrize(
    "name", ["semantic/cityscapes/pspnet_jpu_r101_v1s", "semantic/voc_2012/ocnet_base_jpu_r101_v1s"]
)
def test_heads_and_neck_learn_ten_times_as_fast(name):
    cfg = load_config(name, ["MODEL.DEVICE", "meta"])
    model = on_meta(name)
    rates = {
        id(parameter): group["lr"]
        for group in build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }
    for key, parameter in model.named_parameters():
        factor = 1.0 if key.startswith("backbone.") else 10.0
        assert rates[id(parameter)] == pytest.approx(factor * cfg.SOLVER.BASE_LR), key


def test_torchvisions_auxiliary_head_learns_ten_times_as_fast():
    name = "semantic/coco_21/fcn_r50"
    model = on_meta(name)
    optimizer = build_optimizer(load_config(name, ["MODEL.DEVICE", "meta"]), model)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        assert rates[id(parameter)] == pytest.approx(0.2 if key.startswith("auxiliary_head.") else 0.02), key


def test_models_for_the_test_server_leave_nothing_to_evaluate_on():
    """They train on trainval; a number on val would be one on training images."""
    names = [name for name in GLUON if name.endswith("_trainval")]
    assert len(names) == 4
    for name in names:
        cfg = load_config(name)
        assert tuple(cfg.DATASETS.TRAIN) == ("voc_2012_sem_seg_trainval",)
        assert tuple(cfg.DATASETS.TEST) == ()
        check_best_metric(cfg, Trainer)


def test_gluoncv_counts_padding_as_background_where_there_is_one():
    for name in GLUON:
        label = 0 if "/voc_2012/" in name or "/coco_21/" in name else -1
        assert label == load_config(name).INPUT.PAD_LABEL, name
    for name in (*SEMSEG, *PYTORCH_CV, *TORCHVISION, "semantic/cityscapes/deeplabv3plus_wrn38"):
        assert load_config(name).INPUT.PAD_LABEL == -1


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("ade20k/fcn_r50_v1s_120ep", {0.1}),
        ("ade20k/pspnet_r50_v1s_120ep", {0.1}),
        ("ade20k/deeplabv3_r50_v1s_120ep", {0.1, 0.5}),
        ("cityscapes/danet_r50_v1s_240ep", set()),
        ("cityscapes/deeplabv3plus_wrn38_240ep", {0.3, 0.5}),
    ],
)
def test_gluoncv_drops_single_values(name, rates):
    modules = on_meta(f"semantic/{name}").modules()
    dropouts = [module for module in modules if isinstance(module, nn.Dropout | nn.Dropout2d) and module.p]
    assert {module.p for module in dropouts} == rates
    assert not any(isinstance(module, nn.Dropout2d) for module in dropouts)


def test_no_other_leaf_trains_on_validation_images():
    for name in (*SEMSEG, *PYTORCH_CV, *GLUON):
        if "/voc_2012/" in name and not name.endswith("_trainval"):
            cfg = load_config(name)
            assert tuple(cfg.DATASETS.TRAIN) == ("voc_2012_sem_seg_train_aug",)
            assert tuple(cfg.DATASETS.TEST) == ("voc_2012_sem_seg_val",)


def test_bisenet_mines_hard_pixels_on_cityscapes_only():
    losses = [
        load_config(f"semantic/{data}/bisenet_r18_v1b").MODEL.SEM_SEG_HEAD.LOSS
        for data in ("cityscapes", "voc_2012")
    ]
    assert [loss.NAME for loss in losses] == ["OHEMCrossEntropy", "CrossEntropy"]
    assert (losses[0].OHEM_THRESHOLD, losses[0].OHEM_KEEP_FRACTION) == (0.7, 16)


def test_attentions_are_the_papers_where_pytorch_cv_publishes_no_number():
    danet = load_config("semantic/voc_2012/danet_jpu_r101_v1s")
    assert danet.MODEL.DANET.POSITION_SOFTMAX == "keys"
    ccnet = load_config("semantic/voc_2012/ccnet_jpu_r101_v1s")
    assert ccnet.MODEL.CCNET.RECURRENCE == 2


def test_vplr_follows_its_released_script():
    cfg = load_config("semantic/cityscapes/deeplabv3plus_wrn38")
    assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH) == ("SGD", 0.001, 16)
    assert cfg.SOLVER.MAX_ITER == 175 * (2975 // 16)
    assert tuple(cfg.INPUT.CROP_SIZE) == (896, 896)
    assert (cfg.MODEL.BACKBONE.VARIANT, cfg.MODEL.BACKBONE.OUTPUT_STRIDE) == ("wrn38", 8)
    assert cfg.MODEL.SEM_SEG_HEAD.LOSS.NAME == "BoundaryRelaxedCrossEntropy"
    assert tuple(cfg.MODEL.BOUNDARY_RELAXED.STRICT_CLASSES) == (5, 6, 7, 11, 12, 17, 18)
    # Relaxed in the epochs 0 to 100.
    assert cfg.MODEL.BOUNDARY_RELAXED.END_ITERATION == 101 * (2975 // 16)
    assert cfg.MODEL.AUX_HEAD.NAME == ""


@pytest.mark.parametrize("model", ["fcn", "pspnet", "deeplabv3", "deeplabv3plus", "bisenet"])
def test_camvid_leaves_are_small_enough_for_a_cpu(model):
    name = f"semantic/camvid/{model}_r18"
    cfg = load_config(name)
    assert tuple(cfg.INPUT.CROP_SIZE) == (352, 352)
    assert cfg.INPUT.MIN_SIZE_TEST == 360
    assert (cfg.MODEL.BACKBONE.VARIANT, cfg.MODEL.WEIGHTS) == ("r18", "")
    parameters = sum(parameter.numel() for parameter in on_meta(name).parameters())
    # ResNet-18 itself has 11.2 million.
    assert 11.2e6 < parameters < 14e6


def on_meta(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return build_model(load_config(name, ["MODEL.DEVICE", "meta"]))


def value_of(cfg: CfgNode, key: str) -> object:
    """A value by its dotted key, sequences as lists."""
    value = cfg
    for part in key.split("."):
        value = value[part]
    return list(value) if isinstance(value, tuple | list) else value
