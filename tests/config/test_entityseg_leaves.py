"""EntitySeg's leaves against the released settings, typed from them."""

import pytest
import torch
from detectron2.modeling import build_model

from segzoo.config.files import config_root
from segzoo.model_zoo import load_config
from segzoo.model_zoo.registry import known_models
from segzoo.solver import build_optimizer

MEAN, UNIT = [103.53, 116.28, 123.675], [1.0, 1.0, 1.0]
# Iterations, steps, batch, masks per image, optimizer, learning rate, weight decay.
RESNET = ("SGD", 0.01, 0.0001)
ADAMW = ("AdamW", 0.0001, 0.05)
ONE, THREE = (90_000, (60_000, 80_000), 16, 120), (270_000, (180_000, 250_000), 16, 120)
RELEASED = {
    "r50_baseline": (*ONE, *RESNET),
    "r50": (*ONE, *RESNET),
    "r50_3x": (*THREE, *RESNET),
    "r101": (*ONE, *RESNET),
    "r101_3x": (*THREE, *RESNET),
    "r101_dcnv2_3x": (*THREE, *RESNET),
    "swin_tiny": (*ONE, *ADAMW),
    "swin_large_224_in21k": (*ONE, *ADAMW),
    "swin_large_224_in21k_3x": (*THREE, *ADAMW),
    "mit_b0": (*ONE, *ADAMW),
    "mit_b5": (180_000, (120_000, 160_000), 8, 80, *ADAMW),
}
# Millions of parameters and number of entries of the authors' models.
SIZES = {
    "r50": (40.491, 388),
    "r50_baseline": (40.491, 388),
    "r101": (59.431, 643),
    "r101_dcnv2_3x": (61.360, 703),
    "swin_tiny": (39.813, 312),
    "swin_large_224_in21k": (207.659, 480),
    "mit_b0": (15.374, 299),
    "mit_b5": (93.629, 1175),
}
# The level p2, which nothing uses, and parameters of what feeds it only.
_OUTPUT2 = 256 * 256 * 9 + 256


def unused(name: str) -> int:
    """Return the number of parameters of the authors' model that predictions and losses do not depend on."""
    fine = {"r": 256, "swin_tiny": 96, "swin_large": 192, "mit_b0": 32, "mit_b5": 64}
    channels = next(width for start, width in fine.items() if name.startswith(start))
    norm = 2 * channels if name.startswith("swin") else 0
    bank = (10 * 8 + 8 * 8 + 8) * 9 + 17 if name.endswith("baseline") else 0
    return _OUTPUT2 + 256 * channels + 256 + norm + bank


def config(name, dataset="coco", *overrides):
    return load_config(f"entity/{dataset}/entityseg_{name}", ["MODEL.DEVICE", "meta", *overrides])


def build(name, *overrides):
    with torch.device("meta"):
        return build_model(config(name, "coco", *overrides))


@pytest.mark.parametrize("name", RELEASED)
def test_recipes_are_the_released_ones(name):
    cfg = config(name)
    solver = cfg.SOLVER
    masks = cfg.MODEL.ENTITYSEG.MAX_MASKS_PER_IMAGE
    found = (solver.MAX_ITER, tuple(solver.STEPS), solver.IMS_PER_BATCH, masks)
    assert (*found, solver.OPTIMIZER, solver.BASE_LR, solver.WEIGHT_DECAY) == RELEASED[name]
    assert (solver.LR_SCHEDULER_NAME, solver.WARMUP_ITERS, solver.WARMUP_FACTOR) == (
        "WarmupMultiStepLR",
        1500,
        0.001,
    )
    assert not solver.CLIP_GRADIENTS.ENABLED
    assert not solver.AMP.ENABLED
    assert list(cfg.INPUT.MIN_SIZE_TRAIN) == [640, 672, 704, 736, 768, 800]
    assert (cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (1333, 800, 1333)
    assert (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD) == ("BGR", MEAN, UNIT)
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    assert cfg.INPUT.TARGETS == ("segments", "entities_rounded")
    weights = {path: weight for path, weight in cfg.MODEL.ENTITYSEG.PATH_WEIGHTS if weight}
    if name == "r50_baseline":
        assert (weights, cfg.MODEL.ENTITYSEG.OVERLAP_WEIGHT) == ({"111": 1.0}, 0.0)
    else:
        assert weights == {"111": 1, "110": 1, "101": 1, "100": 1, "011": 0.25, "010": 0.25, "001": 0.25}
        assert cfg.MODEL.ENTITYSEG.OVERLAP_WEIGHT == 0.5
    assert {"s": 0.2, "m": 0.1}.get(name[0], 0.0) == cfg.MODEL.BACKBONE.DROP_PATH_RATE
    assert (
        "p6p7",
        "res5" if name.startswith("r") else "p5",
    ) == (cfg.MODEL.FPN.TOP_BLOCK, cfg.MODEL.FPN.TOP_IN_FEATURE)


@pytest.mark.parametrize("name", SIZES)
def test_models_have_the_parameters_of_the_authors(name):
    model = build(name)
    found = sum(parameter.numel() for parameter in model.parameters())
    assert round((found + unused(name)) / 1e6, 3) == SIZES[name][0]
    row = known_models()[f"entity/coco/entityseg_{name}"]
    assert sum(row.only_official.values()) == unused(name)
    assert row.reproduced.params == round(found / 1e6, 2)


@pytest.mark.parametrize("name", ["r50", "swin_tiny", "mit_b0"])
def test_what_trains_and_its_weight_decay_are_as_released(name):
    model, cfg = build(name), config(name)
    trainable = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {key for key, _ in model.named_parameters()} - trainable
    starts = {"r": ("stem.", "res2."), "m": ("patch_embed1.", "block1.", "norm1."), "s": ()}[name[0]]
    assert frozen == {
        key
        for key, _ in model.named_parameters()
        if key.startswith(tuple(f"backbone.{start}" for start in starts)) and starts
    }
    norms = tuple(f"{key}." for key, module in model.named_modules() if "Norm" in type(module).__name__)
    for group in build_optimizer(cfg, model).param_groups:
        for key in group["names"]:
            if key.endswith("bias"):
                assert group["weight_decay"] == 0.0001, key
            else:
                expected = 0.0 if key.startswith(norms) else cfg.SOLVER.WEIGHT_DECAY
                assert group["weight_decay"] == expected, key


def test_own_leaves_have_the_input_of_their_backbone():
    for file in config_root().glob("entity/*/entityseg_*_rgb.yaml"):
        cfg = load_config(file)
        assert cfg.INPUT.FORMAT == "RGB"
        assert cfg.MODEL.PIXEL_STD[0] > 50
        assert cfg.INPUT.TARGETS == ()


@pytest.mark.parametrize("dataset", ["coco", "ade20k", "cityscapes"])
def test_entities_of_every_dataset_are_one_class(dataset):
    cfg = config("swin_large_224_in21k_all", dataset)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 1
    assert (cfg.TASK, cfg.TEST.TASKS) == ("entity", ("entity",))


def test_the_model_of_several_datasets_is_trained_on_them_and_evaluated_on_each():
    images = {
        "coco_2017_train_panoptic": 118_287,
        "ade20k_panoptic_train": 20_210,
        "cityscapes_fine_panoptic_train": 2_975,
    }
    tests = {
        "coco": (("coco_2017_val_panoptic",), 800, 1333),
        "ade20k": (("ade20k_panoptic_val",), 800, 1333),
        "cityscapes": (("cityscapes_fine_panoptic_val",), 1024, 2048),
    }
    trained = []
    for dataset, expected in tests.items():
        cfg = config("swin_large_224_in21k_all", dataset)
        assert (tuple(cfg.DATASETS.TEST), cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == expected
        row = known_models()[f"entity/{dataset}/entityseg_swin_large_224_in21k_all"]
        assert "not stated" in row.published[0].protocol
        assert "short side" not in row.published[0].protocol
        assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        assert (cfg.INPUT.FORMAT, cfg.MODEL.BACKBONE.DROP_PATH_RATE) == ("BGR", 0.2)
        trained.append(cfg)
    trained.append(config("r50", "coco_ade20k_cityscapes"))
    assert len(trained[-1].DATASETS.TEST) == 3
    for cfg in trained:
        assert tuple(cfg.DATASETS.TRAIN) == tuple(images)
        epochs = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / sum(images.values())
        assert epochs == pytest.approx(36, abs=0.05)
        assert [round(step / cfg.SOLVER.MAX_ITER, 2) for step in cfg.SOLVER.STEPS] == [0.67, 0.92]
        assert list(cfg.INPUT.MIN_SIZE_TRAIN) == [640, 672, 704, 736, 768, 800]


def test_mit_b5_3x_has_three_times_the_iterations_of_1x():
    once, thrice = config("mit_b5"), config("mit_b5_3x")
    assert thrice.SOLVER.MAX_ITER == 3 * once.SOLVER.MAX_ITER
    # 3x of the other models: its last step is 20,000 iterations of batch 16 before the end.
    assert tuple(thrice.SOLVER.STEPS) == (360_000, 500_000)
    same = ("IMS_PER_BATCH", "BASE_LR", "WEIGHT_DECAY", "OPTIMIZER")
    assert [thrice.SOLVER[key] for key in same] == [once.SOLVER[key] for key in same]
    assert thrice.MODEL.ENTITYSEG == once.MODEL.ENTITYSEG
    assert thrice.MODEL.ENTITYSEG.MAX_MASKS_PER_IMAGE == 80


@pytest.mark.parametrize("name", ["r50", "swin_tiny_rgb"])
def test_own_recipes_of_ade20k_and_cityscapes(name):
    ade20k, cityscapes = (config(name, dataset) for dataset in ("ade20k", "cityscapes"))
    found = (ade20k.SOLVER.IMS_PER_BATCH, ade20k.SOLVER.MAX_ITER, tuple(ade20k.SOLVER.STEPS))
    assert found == (16, 60_000, (40_000, 54_000))
    assert (ade20k.INPUT.MIN_SIZE_TEST, ade20k.INPUT.MAX_SIZE_TEST) == (800, 1333)
    # Detectron2's configs/Cityscapes/mask_rcnn_R_50_FPN.yaml.
    found = (cityscapes.SOLVER.IMS_PER_BATCH, cityscapes.SOLVER.MAX_ITER, tuple(cityscapes.SOLVER.STEPS))
    assert found == (8, 24_000, (18_000,))
    assert list(cityscapes.INPUT.MIN_SIZE_TRAIN) == [800, 832, 864, 896, 928, 960, 992, 1024]
    sizes = (cityscapes.INPUT.MAX_SIZE_TRAIN, cityscapes.INPUT.MIN_SIZE_TEST, cityscapes.INPUT.MAX_SIZE_TEST)
    assert sizes == (2048, 1024, 2048)
