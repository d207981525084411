"""Every dataset has a leaf; and the recipes that have no published counterpart, typed here."""

import ast
import re
from typing import NamedTuple

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from torch import nn

from segzoo.config.bases import read_with_bases
from segzoo.config.files import config_root
from segzoo.data import SegmentationMapper, build_test_augmentations, label_reader
from segzoo.data.augmentation.build import AugmentationInput, build_train_augmentations
from segzoo.engine import evaluation_loop
from segzoo.model_zoo import load_config
from segzoo.modeling.protocols import build_inference_protocol
from tests.data.data_trees import datasets_folder, save  # noqa: F401  a fixture
from tests.data.test_human_parsing import CLASSES, COUNTS, PAIRS, write_lip
from tests.data.test_prepare_command import README, expanded

LEAVES = sorted(
    str(file.relative_to(config_root()).with_suffix(""))
    for file in config_root().rglob("*.yaml")
    if "_base_" not in file.parts
)
MODELS = ("pspnet_r101_v1s", "segformer_mit_b2", "mask2former_r50")
PARSING = [f"semantic/{dataset}/{model}" for dataset in CLASSES for model in MODELS]


@pytest.fixture(scope="module")
def used():
    """The splits that any leaf trains or is tested on."""
    keys = [read_with_bases(config_root() / f"{name}.yaml")["DATASETS"] for name in LEAVES]
    return {split for one in keys for key in ("TRAIN", "TEST") for split in ast.literal_eval(one[key])}


ROWS = [line for line in README.splitlines() if line.startswith("| [`")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: re.search(r"`(.+?)`", row)[1])
def test_every_dataset_of_the_page_has_a_leaf(row, used):
    assert expanded(row) & used


def test_the_page_has_many_datasets():
    assert len(ROWS) > 25


class Sizes(NamedTuple):
    """The crop, the box that a test image fits into, and the augmentation's family."""

    crop: int
    box: int
    family: str


SIZES = {
    "pspnet_r101_v1s": Sizes(473, 473, "semseg"),
    "segformer_mit_b2": Sizes(512, 512, "segformer"),
    "mask2former_r50": Sizes(512, 512, "lsj"),
}
# Iterations of 16 images.
ITERATIONS = {"lip": 160_000, "cihp": 160_000, "atr": 80_000, "mhp_v1": 20_000, "mhp_v2": 80_000}


@pytest.mark.parametrize("name", PARSING)
def test_human_parsing_sees_whole_persons_and_both_sides(name):
    cfg = load_config(name)
    _, dataset, model = name.split("/")
    sizes = SIZES[model]
    assert (tuple(cfg.DATASETS.TRAIN), tuple(cfg.DATASETS.TEST)) == (
        (f"{dataset}_train",),
        (f"{dataset}_val",),
    )
    assert len(CLASSES[dataset]) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert (16, ITERATIONS[dataset]) == (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER)
    # Every image is seen so often.
    assert 80 <= 16 * cfg.SOLVER.MAX_ITER / COUNTS[dataset][f"{dataset}_train"] < 110
    assert (sizes.family, 0.5) == (cfg.INPUT.AUGMENTATION, cfg.INPUT.FLIP_PROB)
    tall = AugmentationInput(np.zeros((600, 300, 3), np.uint8))
    for augmentation in build_train_augmentations(cfg, 255):
        augmentation(tall)
    assert tall.image.shape == (sizes.crop, sizes.crop, 3)
    protocol = build_inference_protocol(cfg)
    assert protocol.flip
    if model == "mask2former_r50":
        assert (list(protocol.short_edges), protocol.long_edge_max) == ([sizes.box], sizes.box)
        tall = AugmentationInput(np.zeros((600, 300, 3), np.uint8))
        for augmentation in build_test_augmentations(cfg):
            augmentation(tall)
        assert tall.image.shape == (sizes.box, sizes.box // 2, 3)
    else:
        assert protocol.scales == (1.0,)
        assert protocol.base_size == sizes.box
        assert protocol.max_size == (sizes.box if model == "segformer_mit_b2" else 0)
        assert protocol.crop_size == ((473, 473) if model == "pspnet_r101_v1s" else ())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_flip_in_training_turns_left_arms_into_right_ones(datasets_folder, model, flip):  # noqa: F811
    left, right = 14, 15
    labels = np.full((100, 80), left, np.uint8)
    labels[:, 40:] = right
    write_lip(datasets_folder / "LIP", labels)
    # Red where the left arm is.
    image = np.zeros((100, 80, 3), np.uint8)
    image[:, :40, 0] = image[:, 40:, 1] = 255
    save(datasets_folder / "LIP/TrainVal_images/train_images/77_1.jpg", image)
    options = ["INPUT.FLIP_PROB", flip, "INPUT.COLOR_AUG", False, "INPUT.ROTATION_PROB", 0.0]
    cfg = load_config(f"semantic/lip/{model}", options)
    (record,) = DatasetCatalog.get("lip_train")
    mapper = SegmentationMapper(
        True,
        task="semantic",
        augmentations=build_train_augmentations(cfg, 255),
        readers={"lip_train": label_reader("lip_train")},
    )
    found = mapper(record)
    is_red = (found["image"][0] > 200) & (found["image"][1] < 50)
    assert is_red.sum() > 100
    assert set(found["sem_seg"][is_red].tolist()) - {255} == {right if flip else left}


class Frontal(nn.Module):
    """Predicts the right part, which a viewer sees on the left, on the left half, else the left part."""

    def __init__(self, classes, pair):
        super().__init__()
        self.classes, self.pair = classes, pair

    def forward(self, batched_inputs):
        outputs = []
        for one in batched_inputs:
            height, width = one["height"], one["width"]
            scores = torch.full((self.classes, height, width), -20.0)
            scores[self.pair[1], :, : width // 2] = scores[self.pair[0], :, width // 2 :] = 20.0
            outputs.append({"sem_seg": scores})
        return outputs


@pytest.mark.parametrize("model", MODELS)
def test_the_flipped_copy_in_the_test_has_left_and_right_swapped_back(model):
    cfg = load_config(f"semantic/lip/{model}", ["MODEL.DEVICE", "cpu"])
    pixels = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    for pair in PAIRS["lip"]:
        model = evaluation_loop.tested_model(cfg, Frontal(len(CLASSES["lip"]), pair), "lip_val").eval()
        scores = model([{"image": pixels, "height": 64, "width": 64}])[0]["sem_seg"]
        assert (scores[:, :, :31].argmax(0) == pair[1]).all()
        assert (scores[:, :, 33:].argmax(0) == pair[0]).all()
        # Both copies agree; without the swap, each class would have half of the score.
        other = scores[pair[0], :, :31]
        assert (scores[pair[1], :, :31] - other > 0.9 * scores.abs().max()).all()


# name: crop, (short side, long side) of the test image, images per iteration, iterations.
OTHERS = {
    "pascal_context/segformer_mit_b2": (480, (520, 520), 16, 80_000),
    "pascal_context/maskformer_r50": (480, (480, 1920), 16, 80_000),
    "pascal_context/mask2former_r50": (480, (480, 1920), 16, 80_000),
    "coco_stuff/maskformer_r50": (640, (640, 2560), 16, 160_000),
    "coco_stuff/mask2former_r50": (640, (640, 2560), 16, 160_000),
    "coco_stuff_10k/segformer_mit_b2": (512, (512, 2048), 16, 40_000),
    "coco_stuff_10k/mask2former_r50": (640, (640, 2560), 32, 60_000),
    "bdd100k/segformer_mit_b0": (720, (720, 1280), 8, 80_000),
    "entityseg/mask2former_r50": (512, (512, 2048), 16, 34_375),
}


@pytest.mark.parametrize("name", OTHERS)
def test_semantic_recipes_without_a_published_counterpart(name):
    crop, test, batch, iterations = OTHERS[name]
    cfg = load_config(f"semantic/{name}")
    assert tuple(cfg.INPUT.CROP_SIZE) == (crop, crop)
    assert (batch, iterations) == (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER)
    assert (cfg.SOLVER.LR_SCHEDULER_NAME, cfg.INPUT.FLIP_PROB) == ("WarmupPolyLR", 0.5)
    if "segformer" in name:
        protocol = build_inference_protocol(cfg)
        assert (protocol.name, protocol.base_size, protocol.max_size) == ("segformer", *test)
        assert test == (cfg.INPUT.BASE_SIZE, cfg.INPUT.MAX_SIZE_TRAIN)
    else:
        assert test == (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
        last = 15 if "coco_stuff" in name else 20
        assert list(cfg.INPUT.MIN_SIZE_TRAIN) == [test[0] * tenth // 10 for tenth in range(5, last + 1)]


# name: splits, classes, iterations.
WITH_SEGMENTS = {
    "entity/entityseg/mask2former_r50": ("entityseg_train", "entityseg_val", 1, 103_125),
    "entity/entityseg/maskformer_r50": ("entityseg_train", "entityseg_val", 1, 103_125),
    "entity/entityseg_lr/mask2former_r50": ("entityseg_train_lr", "entityseg_val_lr", 1, 103_125),
    "entity/entityseg_lr/maskformer_r50": ("entityseg_train_lr", "entityseg_val_lr", 1, 103_125),
    "entity/entityseg/entityseg_r50": ("entityseg_train", "entityseg_val", 1, 75_000),
    "entity/entityseg/entityseg_swin_tiny_rgb": ("entityseg_train", "entityseg_val", 1, 75_000),
    "entity/entityseg_lr/entityseg_r50": ("entityseg_train_lr", "entityseg_val_lr", 1, 75_000),
    "entity/entityseg_lr/entityseg_swin_tiny_rgb": ("entityseg_train_lr", "entityseg_val_lr", 1, 75_000),
    "instance/entityseg/mask2former_r50": ("entityseg_instance_train", "entityseg_instance_val", 206, 34_375),
    "panoptic/entityseg/mask2former_r50": ("entityseg_panoptic_train", "entityseg_panoptic_val", 350, 34_375),
    "panoptic/coconut/mask2former_r50": (
        *("coconut_s_train_panoptic", "coconut_relabeled_val_panoptic", 133, 368_750),
    ),
    "panoptic/coconut_b/mask2former_r50": (
        *("coconut_b_train_panoptic", "coconut_relabeled_val_panoptic", 133, 737_500),
    ),
    "instance/coco_rem/mask2former_r50": ("coco_rem_train", "coco_rem_val", 80, 368_750),
}


@pytest.mark.parametrize("name", WITH_SEGMENTS)
def test_the_newer_datasets_with_segments(name):
    train, test, classes, iterations = WITH_SEGMENTS[name]
    cfg = load_config(name)
    assert (tuple(cfg.DATASETS.TRAIN), tuple(cfg.DATASETS.TEST)) == ((train,), (test,))
    assert classes == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    assert (16, iterations) == (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333)
    assert (not name.startswith("panoptic")) == cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    poly = re.search("entityseg.*/mask", name) is not None  # as the dataset's authors train
    assert ("WarmupPolyLR" if poly else "WarmupMultiStepLR") == cfg.SOLVER.LR_SCHEDULER_NAME
    assert poly or 0 < min(cfg.SOLVER.STEPS) < max(cfg.SOLVER.STEPS) < iterations
