"""The recipes of semseg, pytorch-cv, GluonCV and SegFormer: augmentation, learning rates, iterations."""

import cv2
import numpy as np
import pytest
import torch
import yaml
from detectron2.data import transforms as T
from PIL import Image
from torch import nn

from segzoo.config.defaults import default_config
from segzoo.config.files import config_root
from segzoo.data import build_test_augmentations
from segzoo.data.augmentation.build import AugmentationInput, PadTo, build_train_augmentations
from segzoo.data.augmentation.recipes import (
    GaussianBlur,
    RandomRotation,
    RescaleImage,
    ResizeEdge,
    ResizeWithin,
)
from segzoo.data.augmentation.transforms import (
    GaussianBlurTransform,
    OpenCVResizeTransform,
    RotateInPlaceTransform,
    apply_to_indices,
    count_flips,
)
from segzoo.data.label_reader import IndexMap, Segments
from segzoo.data.mapper import SegmentationMapper
from segzoo.model_zoo import load_config
from segzoo.solver import build_lr_scheduler, build_optimizer
from segzoo.utils.errors import InputError
from tests.data.data_trees import random_image

FAMILIES = ("semseg", "gluon_short", "gluon_long", "segformer")
RECIPES = {"semseg": "semseg", "gluon_short": "pytorch_cv", "gluon_long": "gluoncv", "segformer": "upernet"}


def config(family, **keys):
    cfg = default_config()
    recipe = yaml.safe_load((config_root() / f"_base_/recipes/{RECIPES[family]}/recipe.yaml").read_text())
    for key, value in {**recipe["INPUT"], "CROP_SIZE": [40, 48], "BASE_SIZE": 60, **keys}.items():
        cfg.INPUT[key] = value
    return cfg


def blocks(height, width, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.full((height, width), 90, np.uint8)
    for value in generator.integers(0, 150, 30):
        top, left = generator.integers(0, height), generator.integers(0, width)
        labels[top : top + 25, left : left + 25] = value
    return labels


def augment(cfg, seed, size=(70, 90), ignore_label=255):
    """Image and class map after the training augmentations; the image's gray is the label."""
    labels = blocks(*size, seed)
    index_map = IndexMap(labels + np.uint8(1), Segments(np.arange(200), np.zeros(200, dtype=bool)))
    augmented = AugmentationInput(np.repeat(labels[:, :, None], 3, axis=2), index_map, ignore_label)
    np.random.seed(seed)
    transforms = T.AugmentationList(build_train_augmentations(cfg, ignore_label))(augmented)
    return augmented, transforms


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(70, 90), (200, 30), (1, 300), (20, 20)])
def test_every_family_gives_the_crop_size(family, size):
    for seed in range(5):
        augmented, _ = augment(config(family), seed, size)
        assert augmented.image.shape == (40, 48, 3)
        assert augmented.image.dtype == np.uint8
        assert augmented.sem_seg.shape == (40, 48)


@pytest.mark.parametrize("family", FAMILIES)
def test_image_and_labels_stay_together(family):
    same = []
    for seed in range(12):
        augmented, _ = augment(config(family, COLOR_AUG=False, BLUR_PROB=0.0), seed)
        inside = augmented.sem_seg != 255
        same.append(
            (np.abs(augmented.image[:, :, 0][inside].astype(int) - augmented.sem_seg[inside]) < 3).mean()
        )
    # Bilinear resizing mixes grays along the edges of the blocks.
    assert np.mean(same) > 0.8
    assert min(same) > 0.5


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("semseg", (124, 116, 104)),
        ("gluon_short", (0, 0, 0)),
        ("gluon_long", (0,) * 3),
        ("segformer", (124, 116, 104)),
    ],
)
def test_padding_is_the_recipes_for_the_image_and_void_for_the_labels(family, expected):
    keys = {"COLOR_AUG": False, "BLUR_PROB": 0.0, "ROTATION_PROB": 0.0, "SCALE_RANGE": [0.5, 0.5]}
    augmented, _ = augment(config(family, **keys), 0, (60, 60))
    void = augmented.sem_seg == 255
    assert 0.1 < void.mean() < 0.9
    assert (augmented.image[void] == expected).all()
    # semseg pads around the image, the others at the right and the bottom.
    assert void[0].all() == (family == "semseg")
    assert void[:, 0].all() == (family == "semseg")
    assert void[-1].all()


@pytest.mark.parametrize("label", [0, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_padding_may_have_a_class(label, dtype):
    cfg = config(
        "gluon_long", SCALE_RANGE=[1.0, 1.0], BLUR_PROB=0.0, FLIP_PROB=0.0, PAD_LABEL=label, BASE_SIZE=30
    )
    labels = np.full((20, 30), 3, dtype)
    index_map = IndexMap(labels + dtype(1), Segments(np.arange(200), np.zeros(200, dtype=bool)))
    augmented = AugmentationInput(np.full((20, 30, 3), 9, np.uint8), index_map)
    T.AugmentationList(build_train_augmentations(cfg, 255))(augmented)
    expected = np.full((40, 48), label)
    expected[:20, :30] = 3
    assert np.array_equal(augmented.sem_seg, expected)


@pytest.mark.parametrize(
    ("name", "label", "message"),
    [
        ("semantic/camvid/fcn_r18", "11", "11: camvid.yaml has 11 classes; expected a class, counted from 0"),
        ("semantic/camvid/fcn_r18", "-2", "-2: expected a class, counted from 0, or -1 for the ignore label"),
        ("entity/coco/maskformer_r50", "0", "0: only TASK semantic trains on padding, found TASK entity"),
    ],
)
def test_a_wrong_class_of_padding_is_refused(name, label, message):
    with pytest.raises(InputError, match=f"INPUT.PAD_LABEL {message}"):
        SegmentationMapper(load_config(name, ["INPUT.PAD_LABEL", label]))


def test_the_ignore_label_of_the_dataset_pads_labels():
    augmented, _ = augment(config("segformer", SCALE_RANGE=[0.5, 0.5]), 0, (60, 60), ignore_label=65535)
    assert set(np.unique(augmented.sem_seg[-1])) == {65535}


STEPS = {
    "semseg": ["OpenCVResize", "RotateInPlace", "GaussianBlur", "HFlip", "Crop"],
    "gluon_short": ["HFlip", "PillowResize", "Crop", "GaussianBlur"],
    "gluon_long": ["HFlip", "PillowResize", "Crop", "GaussianBlur"],
    "segformer": ["OpenCVResize", "Crop", "HFlip", "ColorJitter"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_have_the_order_and_the_probabilities_of_the_recipe(family):
    always = {"FLIP_PROB": 1.0, "BLUR_PROB": 1.0, "ROTATION_PROB": 1.0, "SCALE_RANGE": [2.0, 2.0]}
    _, transforms = augment(config(family, **always), 0)
    names = [type(one).__name__.removesuffix("Transform") for one in transforms.transforms]
    assert [name for name in names if name not in ("NoOp", "Pad")] == STEPS[family]
    counts = dict.fromkeys(("HFlip", "GaussianBlur", "RotateInPlace"), 0)
    for seed in range(120):
        _, transforms = augment(config(family), seed, (20, 20))
        for one in transforms.transforms:
            name = type(one).__name__.removesuffix("Transform")
            if name in counts:
                counts[name] += 1
    for name, count in counts.items():
        assert (35 < count < 85) if name in STEPS[family] else count == 0


def drawn_sizes(policy, size, count=400):
    np.random.seed(0)
    image = np.zeros((*size, 3), np.uint8)
    return [policy.get_transform(image).apply_image(image).shape[:2] for _ in range(count)]


def test_semseg_scales_the_image_by_a_uniform_factor():
    heights = [height for height, _ in drawn_sizes(RescaleImage((0.5, 2.0)), (40, 60))]
    assert (min(heights), max(heights)) == (20, 80)
    assert np.mean(heights) == pytest.approx(50, abs=2)
    assert all(
        abs(width - 1.5 * height) <= 1 for height, width in drawn_sizes(RescaleImage((0.5, 2)), (40, 60))
    )


@pytest.mark.parametrize(("edge", "pick"), [("short", min), ("long", max)])
@pytest.mark.parametrize("size", [(40, 61), (61, 40)])
def test_gluon_draws_the_length_of_an_edge(edge, pick, size):
    sizes = drawn_sizes(ResizeEdge(21, (0.5, 2.0), edge), size)
    lengths = {pick(found) for found in sizes}
    assert lengths == set(range(10, 43))
    for height, width in sizes:
        chosen, length = pick(size), pick(height, width)
        assert (height, width) == tuple(
            length if side == chosen else int(side * length / chosen + (0.5 if edge == "long" else 0.0))
            for side in size
        )


@pytest.mark.parametrize("size", [(40, 61), (61, 40), (10, 300)])
def test_segformer_fits_the_image_into_a_scaled_box(size):
    limits = [tuple(int(side * factor) for side in (128, 32)) for factor in np.linspace(0.5, 2.0, 2000)]
    possible = set()
    for long, short in limits:
        ratio = min(long / max(size), short / min(size))
        possible.add(tuple(int(side * ratio + 0.5) for side in size))
    sizes = set(drawn_sizes(ResizeWithin((128, 32), (0.5, 2.0)), size))
    assert sizes <= possible
    assert len(sizes) > len(possible) / 2


def test_images_are_resized_as_the_code_bases_do():
    image, labels = random_image(40, 61), blocks(40, 61)
    transform = OpenCVResizeTransform(25, 90)
    expected = cv2.resize(image, (90, 25), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(transform.apply_image(image), expected)
    # Labels under the center of the new pixel: Pillow's rule, which Detectron2's resize has too.
    expected = np.asarray(Image.fromarray(labels).resize((90, 25), Image.NEAREST))
    assert (transform.apply_segmentation(labels) == expected).mean() > 0.99
    large = labels.astype(np.uint16) * 300
    assert np.array_equal(
        apply_to_indices(transform, large), transform.apply_segmentation(labels) * np.uint16(300)
    )
    gluon = ResizeEdge(30, (1.0, 1.0), "short").get_transform(image)
    expected = np.asarray(Image.fromarray(image).resize((45, 30), Image.BILINEAR))
    assert np.array_equal(gluon.apply_image(image), expected)


def test_a_quarter_turn_moves_pixels_where_it_should():
    image, labels = random_image(9, 9), blocks(9, 9)
    turned = RotateInPlaceTransform(9, 9, 90, (1, 2, 3))
    # OpenCV's rotation is about pixel (4.5, 4.5), so that counter-clockwise turns shift by one row.
    assert np.array_equal(turned.apply_image(image)[1:], np.rot90(image)[:-1])
    assert np.array_equal(turned.apply_segmentation(labels)[1:], np.rot90(labels)[:-1])
    assert (turned.apply_image(image)[0] == (1, 2, 3)).all()
    assert (turned.apply_segmentation(labels)[0] == 0).all()
    assert np.array_equal(RotateInPlaceTransform(9, 9, 0, (0, 0, 0)).apply_image(image), image)


def test_angles_are_uniform_in_their_range():
    np.random.seed(0)
    angles = [
        RandomRotation((-10, 10), (0, 0, 0)).get_transform(random_image(4, 4)).angle for _ in range(500)
    ]
    assert -10 <= min(angles) < -9.5
    assert 9.5 < max(angles) <= 10
    assert np.mean(angles) == pytest.approx(0, abs=1)


def test_the_blur_is_a_gaussian():
    image = random_image(21, 17).astype(np.float32)
    taps = np.array([1, 4, 6, 4, 1]) / 16  # binomial: what OpenCV takes for a side without a deviation
    expected = np.apply_along_axis(lambda line: np.convolve(line, taps, "valid"), 0, image)
    expected = np.apply_along_axis(lambda line: np.convolve(line, taps, "valid"), 1, expected)
    blurred = GaussianBlurTransform(kernel=5).apply_image(image)
    np.testing.assert_allclose(blurred[2:-2, 2:-2], expected, atol=1e-3)
    spread = GaussianBlurTransform(sigma=0.7).apply_image(
        np.eye(1, 225, 112, dtype=np.float32).reshape(15, 15)
    )
    offsets = np.arange(15) - 7
    assert (spread * offsets**2).sum() == pytest.approx(0.7**2, rel=0.05)  # the variance along each axis
    assert (spread * offsets[:, None] ** 2).sum() == pytest.approx(0.7**2, rel=0.05)
    assert np.array_equal(GaussianBlurTransform(sigma=0.0).apply_image(image), image)
    np.random.seed(0)
    sigmas = [GaussianBlur(sigma=(0.0, 1.0)).get_transform(image).sigma for _ in range(300)]
    assert 0 <= min(sigmas) < 0.05
    assert 0.95 < max(sigmas) <= 1


def test_padding_around_puts_the_odd_pixel_at_the_right_and_the_bottom():
    image = np.full((2, 3, 3), 7, np.uint8)
    padded = PadTo((5, 6), (1.4, 2.6, 3.0), centered=True).get_transform(image).apply_image(image)
    assert padded.shape == (5, 6, 3)
    assert (padded[1:3, 1:4] == 7).all()
    assert padded[0, 0].tolist() == [1, 3, 3]
    assert (padded != 7).sum() == (30 - 6) * 3


@pytest.mark.parametrize("family", FAMILIES)
def test_flips_are_seen_so_that_left_and_right_classes_are_swapped(family):
    assert count_flips(augment(config(family, FLIP_PROB=1.0), 0)[1]) == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"CROP_SIZE": []}, r"INPUT.CROP_SIZE \[\]: INPUT.AUGMENTATION semseg needs \(height, width\)"),
        ({"SCALE_RANGE": [2.0, 0.5]}, r"INPUT.SCALE_RANGE \(2.0, 0.5\): expected \(lowest, highest\)"),
        ({"BLUR_KERNEL": 4}, "INPUT.BLUR_KERNEL 4: expected an odd number"),
    ],
)
def test_invalid_values_are_explained(keys, message):
    with pytest.raises(InputError, match=message):
        build_train_augmentations(config("semseg", **keys), 255)


def test_a_protocol_gets_images_as_they_are():
    cfg = config("semseg", MIN_SIZE_TEST=50)
    assert len(build_test_augmentations(cfg)) == 1
    cfg.TEST.PROTOCOL = "maskformer_tta"
    assert len(build_test_augmentations(cfg)) == 1
    cfg.TEST.PROTOCOL = "semseg_ss"
    assert build_test_augmentations(cfg) == []


# Learning rates and iterations.


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        # Recipes of mmsegmentation know the norms of a backbone by their names.
        self.backbone = nn.ModuleDict({"conv": nn.Conv2d(3, 4, 1), "norm": nn.BatchNorm2d(4)})
        self.neck = nn.Conv2d(4, 4, 1)
        self.sem_seg_head = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 1), "norm": nn.BatchNorm2d(4)})
        self.auxiliary_head = nn.Conv2d(4, 4, 1)


def leaf(tmp_path, dataset, recipe, *others):
    path = tmp_path / "leaf.yaml"
    names = [f"datasets/{dataset}", *others, f"recipes/{recipe}/{dataset}"]
    bases = [str(config_root() / "_base_" / f"{name}.yaml") for name in names]
    path.write_text(yaml.safe_dump({"_BASE_": bases}))
    return load_config(path)


# For each part: learning rate, decay of weights, decay of norms.
SETTINGS = [
    ("ade20k", "semseg", (0.01, 1e-4, 1e-4), (0.1, 1e-4, 1e-4)),
    ("voc_2012", "pytorch_cv", (0.004, 1e-4, 1e-4), (0.04, 1e-4, 1e-4)),
    # As --lr 0.01 on 4 GPUs with a decay of 1e-4, per mean gradient.
    ("ade20k", "gluoncv", (0.0025, 4e-4, 4e-4), (0.025, 4e-4, 4e-4)),
    ("ade20k", "segformer", (6e-5, 0.01, 0.0), (6e-4, 0.01, 0.01)),
    ("ade20k", "upernet", (6e-5, 0.01, 0.0), (6e-5, 0.01, 0.01)),
]


@pytest.mark.parametrize(("dataset", "recipe", "backbone", "others"), SETTINGS)
def test_every_part_learns_at_its_rate(tmp_path, dataset, recipe, backbone, others):
    model = Toy()
    optimizer = build_optimizer(leaf(tmp_path, dataset, recipe), model)
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for name in group["names"]
    }
    assert sorted(found) == sorted(name for name, _ in model.named_parameters())
    for name, (lr, decay) in found.items():
        expected = backbone if name.startswith("backbone.") else others
        norm = name.split(".")[1] == "norm"
        assert lr == pytest.approx(expected[0]), name
        assert decay == pytest.approx(expected[2] if norm else expected[1]), name


@pytest.mark.parametrize(
    ("dataset", "recipe", "weight"),
    [
        ("ade20k", "semseg", 0.4),
        ("voc_2012", "pytorch_cv", 0.5),
        ("ade20k", "gluoncv", 1.0),
    ],
)
def test_the_auxiliary_loss_has_the_recipes_weight(tmp_path, dataset, recipe, weight):
    cfg = leaf(tmp_path, dataset, recipe, "methods/fcn")
    assert weight == cfg.MODEL.AUX_HEAD.LOSS_WEIGHT


def rates_at(cfg, iterations):
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for iteration in iterations:
        scheduler.load_state_dict({"iteration": iteration})
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_learning_rates_fall_as_the_recipes_say(tmp_path):
    found = rates_at(leaf(tmp_path, "ade20k", "semseg"), [0, 1263, 63150])
    assert found == pytest.approx([0.01, 0.01 * (1 - 1 / 100) ** 0.9, 0.01 * 0.5**0.9])
    cfg = leaf(tmp_path, "ade20k", "segformer")
    # MMCV: poly x (1 - (1 - t / 1500) (1 - 1e-6)) in the warm-up.
    expected = [6e-5 * 1e-6, 6e-5 * (1 - 750 / 160000) * (1 - 0.5 * (1 - 1e-6)), 6e-5 * 0.5, 0.0]
    assert rates_at(cfg, [0, 750, 80000, 160000]) == pytest.approx(expected, abs=1e-15)
    cfg = leaf(tmp_path, "cityscapes", "pytorch_cv")
    assert rates_at(cfg, [0])[0] == pytest.approx(0.04 * 0.01)
    assert rates_at(cfg, [5520])[0] == pytest.approx(0.04 * 0.5**0.9)


@pytest.mark.parametrize(
    ("dataset", "recipe", "epochs", "images"),
    [
        ("ade20k", "semseg", 100, 20210),
        ("voc_2012", "semseg", 50, 10582),
        ("cityscapes", "semseg", 200, 2975),
        ("voc_2012", "pytorch_cv", 50, 10582),
        ("pascal_context", "pytorch_cv", 80, 4996),
        ("cityscapes", "pytorch_cv", 120, 2975),
        ("ade20k", "gluoncv", 120, 20210),
        ("coco_21", "gluoncv", 30, 118287),
    ],
)
def test_iterations_are_epochs_without_the_last_partial_batch(tmp_path, dataset, recipe, epochs, images):
    cfg = leaf(tmp_path, dataset, recipe)
    per_epoch = images // cfg.SOLVER.IMS_PER_BATCH
    assert epochs * per_epoch == cfg.SOLVER.MAX_ITER
    if recipe == "semseg":
        assert per_epoch == cfg.SOLVER.CHECKPOINT_PERIOD
        assert all((side - 1) % 8 == 0 for side in cfg.INPUT.CROP_SIZE)
