"""Panoptic SegFormer's leaves against the released settings, typed from them."""

import pytest
import torch
from detectron2.modeling import build_model

from segzoo.model_zoo import load_config
from segzoo.model_zoo.registry import known_models

IMAGES = 118_287
# Epochs, epoch after which the learning rate falls, score thresholds, drop path, frozen stages of the ResNet.
RELEASED = {
    "r50_12ep": (12, 8, 0.25, 0.0, 2),
    "r50": (24, 18, 0.25, 0.0, 2),
    "r101": (24, 18, 0.25, 0.0, 2),
    "pvtv2_b5_in21k": (24, 18, 0.3, 0.1, None),
    "swin_large_224_in21k": (24, 18, 0.3, 0.3, None),
}
OTHERS = ("cityscapes/panoptic_segformer_r50", "ade20k/panoptic_segformer_r50")


def config(name):
    return load_config(f"panoptic/{name}", ["MODEL.DEVICE", "meta"])


@pytest.mark.parametrize("name", RELEASED)
def test_recipes_are_the_released_ones(name):
    cfg = config(f"coco/panoptic_segformer_{name}")
    epochs, last, threshold, drop_path, frozen = RELEASED[name]
    solver, node = cfg.SOLVER, cfg.MODEL.PANOPTIC_SEGFORMER
    # Eight processes of one image; the last batch of an epoch is padded to eight images.
    per_epoch = -(-IMAGES // 8)
    assert (8, epochs * per_epoch) == (solver.IMS_PER_BATCH, solver.MAX_ITER)
    assert tuple(solver.STEPS) == (last * per_epoch,)
    assert (solver.GAMMA, solver.LR_SCHEDULER_NAME, solver.WARMUP_ITERS) == (0.1, "WarmupMultiStepLR", 0)
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS is False
    assert (threshold, threshold) == (node.TEST.THING_THRESHOLD, node.TEST.STUFF_THRESHOLD)
    assert (node.FILTER_ROUNDS, node.STUFF_CLASS_LOSS) == (1, "with_things")
    assert drop_path == cfg.MODEL.BACKBONE.DROP_PATH_RATE
    if frozen is not None:
        assert (frozen, "FrozenBN") == (cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.BACKBONE.NORM)
    train = cfg.INPUT
    assert (train.AUGMENTATION, tuple(train.TARGETS)) == ("detr", ("segments", "whole_boxes"))
    assert list(train.MIN_SIZE_TRAIN) == list(range(480, 801, 32))
    assert (train.MAX_SIZE_TRAIN, train.MIN_SIZE_TEST, train.MAX_SIZE_TEST) == (1333, 800, 1333)
    assert (tuple(train.DETR_CROP_SHORT_EDGE), tuple(train.DETR_CROP_SIZE)) == ((400, 500, 600), (384, 600))
    assert (train.FLIP_PROB, train.FORMAT) == (0.5, "RGB")


@pytest.mark.parametrize("name", [*(f"coco/panoptic_segformer_{name}" for name in RELEASED), *OTHERS])
def test_what_all_models_have_is_as_released(name):
    cfg = config(name)
    solver, node = cfg.SOLVER, cfg.MODEL.PANOPTIC_SEGFORMER
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.AMP.ENABLED) == ("AdamW", 1.4e-4, False)
    assert (solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM, solver.WEIGHT_DECAY_EMBED) == (1e-4, 1e-4, 1e-4)
    clip = solver.CLIP_GRADIENTS
    assert (clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE, clip.NORM_TYPE) == (True, "full_model", 0.1, 2.0)
    widths = (node.HIDDEN_DIM, node.NHEADS, node.DIM_FEEDFORWARD, node.NUM_POINTS, node.DROPOUT)
    assert widths == (256, 8, 1024, 4, 0.1)
    layers = (node.ENC_LAYERS, node.DEC_LAYERS, node.THING_LAYERS, node.STUFF_LAYERS)
    assert (*layers, node.NUM_OBJECT_QUERIES) == (6, 6, 4, 6, 300)
    assert (node.CLASS_WEIGHT, node.BOX_WEIGHT, node.IOU_WEIGHT, node.MASK_WEIGHT) == (2, 5, 2, 2)
    assert (node.TEST.THING_OVERLAP, node.TEST.STUFF_OVERLAP) == (0.4, 0.2)


@pytest.mark.parametrize("name", OTHERS)
def test_other_datasets_train_all_stuff_and_keep_the_backbone_of_coco(name):
    cfg = config(name)
    assert (cfg.MODEL.PANOPTIC_SEGFORMER.STUFF_CLASS_LOSS, cfg.MODEL.BACKBONE.FREEZE_AT) == ("all", 2)
    assert cfg.INPUT.TARGETS == ()
    assert list(cfg.INPUT.CROP_SIZE) == {"c": [512, 1024], "a": [640, 640]}[name[0]]


@pytest.mark.parametrize("name", ["r101", "pvtv2_b5_in21k", "swin_large_224_in21k"])
def test_only_early_stages_of_resnets_are_frozen(name):
    with torch.device("meta"):
        model = build_model(config(f"coco/panoptic_segformer_{name}"))
    parameters = dict(model.named_parameters())
    frozen = {key for key, parameter in parameters.items() if not parameter.requires_grad}
    starts = ("backbone.stem.", "backbone.res2.") if name == "r101" else ()
    assert frozen == {key for key in parameters if starts and key.startswith(starts)}
    row = known_models()[f"panoptic/coco/panoptic_segformer_{name}"]
    total = sum(parameter.numel() for parameter in parameters.values())
    assert row.reproduced.params == round(total / 1e6, 2)
