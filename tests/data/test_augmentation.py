"""Augmentations keep image and labels together; draws and pixels equal Detectron2's where it has the same."""

import random

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.projects.point_rend import ColorAugSSDTransform

from segzoo.config.defaults import default_config
from segzoo.data.augmentation import build
from segzoo.data.augmentation.build import (
    FAMILIES,
    AugmentationInput,
    CategoryCappedCrop,
    ColorJitter,
    FixedCrop,
    PadTo,
    build_test_augmentations,
    build_train_augmentations,
    has_one_size,
)
from segzoo.data.augmentation.policies import BySize, ResizeShortestEdge
from segzoo.data.augmentation.transforms import ColorJitterTransform, apply_to_indices, count_flips
from segzoo.data.label_reader import IndexMap, Segments
from segzoo.utils.errors import InputError
from tests.data.data_trees import random_image


def index_map_of(indices, count=200):
    return IndexMap(indices, Segments(np.arange(count), np.zeros(count, dtype=bool)))


def config(**keys):
    cfg = default_config()
    for key, value in keys.items():
        cfg.INPUT[key] = value
    return cfg


def blocks(height, width, seed=0, count=150):
    """A label map of random rectangles, 0..count."""
    generator = np.random.default_rng(seed)
    labels = np.zeros((height, width), dtype=np.uint8)
    for value in generator.integers(0, count, 30):
        top, left = generator.integers(0, height), generator.integers(0, width)
        labels[top : top + 20, left : left + 20] = value
    return labels


@pytest.mark.parametrize(
    "transform",
    [
        T.ResizeTransform(40, 50, 61, 83),
        T.ResizeTransform(40, 50, 17, 23),
        T.HFlipTransform(50),
        T.CropTransform(3, 4, 20, 30),
        T.RotationTransform(40, 50, 30),
        T.TransformList([T.ResizeTransform(40, 50, 80, 99), T.HFlipTransform(99)]),
    ],
)
def test_sixteen_bit_maps_move_exactly_as_eight_bit_ones(transform):
    small = blocks(40, 50)
    expected = transform.apply_segmentation(small)
    assert np.array_equal(apply_to_indices(transform, small), expected)
    large = small.astype(np.uint16) * 300
    moved = apply_to_indices(transform, large)
    assert moved.dtype == np.uint16
    assert np.array_equal(moved, expected.astype(np.uint16) * 300)


def test_augmentations_see_the_class_map_and_void_is_zero_inside():
    indices = np.array([[0, 1, 2]], dtype=np.uint8)
    index_map = IndexMap(indices, Segments(np.array([7, 3]), np.zeros(2, dtype=bool)))
    augmented = AugmentationInput(random_image(1, 3), index_map)
    assert augmented.sem_seg.tolist() == [[255, 7, 3]]
    augmented.transform(T.PadTransform(0, 0, 1, 1))
    assert augmented.sem_seg.tolist() == [[255, 7, 3, 255], [255] * 4]
    sixteen = AugmentationInput(random_image(1, 3), index_map, ignore_label=65535)
    assert sixteen.sem_seg.dtype == np.uint16
    assert sixteen.sem_seg.tolist() == [[65535, 7, 3]]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.3, 0.75, 1.0])
def test_the_capped_crop_draws_the_crop_of_detectron2(seed, share):
    labels = blocks(90, 120, seed, count=6)
    labels[:30] = 255
    image = random_image(90, 120)
    ours = CategoryCappedCrop((50, 60), share)
    theirs = T.RandomCrop_CategoryAreaConstraint("absolute", (50, 60), share, 255)
    np.random.seed(seed)
    mine = AugmentationInput(image, index_map_of(labels + np.uint8(1)))
    ours(mine)
    np.random.seed(seed)
    reference = T.AugInput(image, sem_seg=labels)
    theirs(reference)
    assert np.array_equal(mine.image, reference.image)
    assert np.array_equal(mine.sem_seg, reference.sem_seg)


def test_a_crop_within_the_cap_is_found_when_there_are_many():
    labels = np.tile(np.repeat(np.array([[1, 2]], dtype=np.uint8), 20, axis=1), (40, 3))
    labels[:, :60] = 5
    found = 0
    for seed in range(100):
        np.random.seed(seed)
        augmented = AugmentationInput(random_image(40, 120), index_map_of(labels + np.uint8(1)))
        CategoryCappedCrop((30, 30), 0.8)(augmented)
        counts = np.bincount(augmented.sem_seg.ravel())
        found += counts.max() < 0.8 * counts.sum()
    # A single draw is within the cap less than half of the time; ten of them nearly always are.
    assert found >= 95


def test_a_crop_is_never_larger_than_the_image():
    augmented = AugmentationInput(random_image(20, 100), index_map_of(blocks(20, 100)))
    CategoryCappedCrop((50, 60), 0.75)(augmented)
    assert augmented.image.shape == (20, 60, 3)


def test_padding_is_gray_for_the_image_and_void_for_the_labels():
    augmented = AugmentationInput(random_image(2, 3), index_map_of(np.full((2, 3), 4, dtype=np.uint8)))
    PadTo((3, 5), 128)(augmented)
    assert augmented.image.shape == (3, 5, 3)
    assert (augmented.image[2] == 128).all()
    assert (augmented.image[:, 3:] == 128).all()
    assert augmented.sem_seg.tolist() == [[3, 3, 3, 255, 255]] * 2 + [[255] * 5]


@pytest.mark.parametrize("seed", range(5))
def test_the_fixed_crop_of_large_scale_jitter_draws_that_of_detectron2(seed):
    image = random_image(90, 120)
    np.random.seed(seed)
    ours = T.AugInput(image)
    FixedCrop((64, 150))(ours)
    np.random.seed(seed)
    theirs = T.AugInput(image)
    T.FixedSizeCrop((64, 150), pad=False)(theirs)
    assert np.array_equal(ours.image, theirs.image)
    assert ours.image.shape == (64, 120, 3)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("seed", range(25))
def test_color_jitter_makes_the_pixels_of_detectron2_for_the_same_amounts(image_format, seed):
    image = random_image(33, 21, seed)
    random.seed(seed)
    expected = ColorAugSSDTransform(image_format).apply_image(image.copy())
    # The same draws, in the order in which Detectron2's transform makes them.
    random.seed(seed)
    amounts = {"brightness": random.uniform(-32, 32) if random.randrange(2) else None}
    contrast_first = bool(random.randrange(2))
    order = ["saturation", "hue"]
    for name in ["contrast", *order] if contrast_first else [*order, "contrast"]:
        amounts[name] = None
        if random.randrange(2):
            amounts[name] = random.randint(-18, 18) if name == "hue" else random.uniform(0.5, 1.5)
    transform = ColorJitterTransform(image_format, contrast_first=contrast_first, **amounts)
    assert np.array_equal(transform.apply_image(image), expected)
    assert np.array_equal(transform.apply_image(image), expected)


def test_color_jitter_makes_each_change_half_of_the_time_within_its_range():
    np.random.seed(0)
    drawn = [ColorJitter("RGB").get_transform(random_image(2, 2)) for _ in range(2000)]
    ranges = {"brightness": (-32, 32), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-18, 18)}
    for name, (low, high) in ranges.items():
        values = [getattr(one, name) for one in drawn if getattr(one, name) is not None]
        assert 900 < len(values) < 1100
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high
    assert 900 < sum(one.contrast_first for one in drawn) < 1100


def augment(cfg, seed, size=(100, 140)):
    """Image and class map after the training augmentations."""
    labels = blocks(*size, seed)
    # The image shows the labels, so that one tells whether they still belong together.
    image = np.repeat(labels[:, :, None], 3, axis=2)
    augmented = AugmentationInput(image, index_map_of(labels + np.uint8(1)))
    np.random.seed(seed)
    transforms = T.AugmentationList(build_train_augmentations(cfg, 255))(augmented)
    return augmented, transforms


@pytest.mark.parametrize("seed", range(4))
def test_the_semantic_family_gives_the_crop_size(seed):
    cfg = config(
        AUGMENTATION="semantic", CROP_SIZE=(64, 80), MIN_SIZE_TRAIN=(50, 100, 200), MAX_SIZE_TRAIN=300
    )
    augmented, _ = augment(cfg, seed)
    assert augmented.image.shape == (64, 80, 3)
    assert augmented.sem_seg.shape == (64, 80)


def test_without_padding_a_small_image_stays_small():
    cfg = config(AUGMENTATION="semantic", CROP_SIZE=(64, 80), MIN_SIZE_TRAIN=(50,), PAD_TO_CROP=False)
    assert augment(cfg, 0)[0].image.shape == (50, 70, 3)


@pytest.mark.parametrize("seed", range(6))
def test_large_scale_jitter_gives_a_square_padded_with_void(seed):
    cfg = config(AUGMENTATION="lsj", LSJ_SIZE=96, LSJ_SCALE=(0.1, 2.0))
    augmented, _ = augment(cfg, seed)
    assert augmented.image.shape == (96, 96, 3)
    void = augmented.sem_seg == 255
    assert (augmented.image[void] == cfg.INPUT.PAD_VALUE).all()


def test_the_detr_family_resizes_to_the_listed_edges_and_crops_half_of_the_time():
    cfg = config(
        AUGMENTATION="detr",
        MIN_SIZE_TRAIN=(50, 60),
        MAX_SIZE_TRAIN=90,
        DETR_CROP_SHORT_EDGE=(40, 45),
        DETR_CROP_SIZE=(20, 35),
    )
    crops = 0
    for seed in range(200):
        augmented, transforms = augment(cfg, seed)
        height, width = augmented.image.shape[:2]
        assert min(height, width) in (50, 60) or max(height, width) == 90
        crops += any(isinstance(one, T.CropTransform) for one in transforms.transforms)
    assert 75 < crops < 125


@pytest.mark.parametrize("family", ["semantic", "lsj", "detr"])
@pytest.mark.parametrize("seed", range(3))
def test_image_and_labels_stay_together(family, seed):
    sizes = {"MIN_SIZE_TRAIN": (100,), "DETR_CROP_SHORT_EDGE": (100,), "DETR_CROP_SIZE": (90, 100)}
    cfg = config(AUGMENTATION=family, CROP_SIZE=(80, 80), LSJ_SIZE=100, LSJ_SCALE=(1.4, 1.4), **sizes)
    augmented, _ = augment(cfg, seed)
    inside = augmented.sem_seg != 255
    same = augmented.image[:, :, 0][inside] == augmented.sem_seg[inside]
    # Bilinear resizing mixes grays along edges, so only where nothing was resized all pixels agree.
    assert same.mean() > (0.999 if family == "semantic" else 0.7)


def test_flips_are_counted_however_they_are_nested():
    flip = T.HFlipTransform(5)
    assert count_flips(T.TransformList([flip, T.NoOpTransform(), T.TransformList([flip, flip])])) == 3
    assert count_flips(T.TransformList([T.VFlipTransform(5), T.NoOpTransform()])) == 0


def test_flips_have_the_configured_probability():
    for probability in (0.0, 1.0):
        cfg = config(AUGMENTATION="semantic", MIN_SIZE_TRAIN=(50,), FLIP_PROB=probability)
        assert all(count_flips(augment(cfg, seed)[1]) == probability for seed in range(5))


@pytest.mark.parametrize(
    ("min_size", "max_size", "expected"),
    [(0, 0, (100, 140)), (50, 1333, (50, 70)), (50, 60, (43, 60)), (200, 0, (200, 280))],
)
def test_the_test_resize_keeps_the_cap_of_the_long_edge(min_size, max_size, expected):
    cfg = config(MIN_SIZE_TEST=min_size, MAX_SIZE_TEST=max_size)
    augmented = AugmentationInput(random_image(100, 140))
    T.AugmentationList(build_test_augmentations(cfg))(augmented)
    assert augmented.image.shape[:2] == expected


THIN = [(1, 4000), (4000, 1)]


@pytest.mark.parametrize("size", THIN)
def test_the_test_resize_leaves_a_pixel_of_a_thin_image(size):
    augmented = AugmentationInput(random_image(*size))
    T.AugmentationList(build_test_augmentations(config(MIN_SIZE_TEST=50, MAX_SIZE_TEST=80)))(augmented)
    assert augmented.image.shape[:2] == tuple(min(side, 80) for side in size)


@pytest.mark.parametrize("size", THIN)
@pytest.mark.parametrize("family", ["semantic", "lsj", "detr"])
def test_thin_images_can_be_trained_on(family, size):
    sizes = {"MIN_SIZE_TRAIN": (50,), "MAX_SIZE_TRAIN": 80, "DETR_CROP_SHORT_EDGE": (40,)}
    cfg = config(AUGMENTATION=family, CROP_SIZE=(32, 32), LSJ_SIZE=64, DETR_CROP_SIZE=(20, 35), **sizes)
    for seed in range(3):
        augmented, _ = augment(cfg, seed, size)
        assert min(augmented.image.shape) >= 1
        assert augmented.sem_seg.shape == augmented.image.shape[:2]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["ResizeShortestEdge", "ResizeScale"])
def test_other_images_are_resized_as_detectron2_does(name, seed):
    arguments = {"ResizeShortestEdge": ([30, 70], 90), "ResizeScale": (0.1, 2.0, 64, 80)}[name]
    resized = []
    for module in (build, T):
        np.random.seed(seed)
        augmented = AugmentationInput(random_image(40, 60))
        getattr(module, name)(*arguments)(augmented)
        resized.append(augmented.image)
    assert np.array_equal(*resized)


def test_an_unknown_family_is_explained():
    with pytest.raises(InputError, match=r"INPUT.AUGMENTATION 'ljs' is unknown; did you mean lsj\?"):
        build_train_augmentations(config(AUGMENTATION="ljs"), 255)


@pytest.mark.parametrize("crop", [(), (24, 32)])
@pytest.mark.parametrize("pads", [True, False])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_sizes_that_are_said_to_be_equal_are(family, pads, crop):
    """Where images have one size cuDNN measures its algorithms: once, not for each image."""
    cfg = config(AUGMENTATION=family, CROP_SIZE=crop, PAD_TO_CROP=pads, LSJ_SIZE=48, MIN_SIZE_TRAIN=(20, 40))
    if not crop and family not in ("semantic", "lsj", "lsj_padded", "detr"):
        pytest.skip("the family needs a crop")
    sizes = set()
    for seed, size in enumerate([(70, 50), (30, 90), (25, 25)] * 3):
        np.random.seed(seed)
        image = AugmentationInput(np.zeros((*size, 3), np.uint8), index_map_of(blocks(*size)), 255)
        T.AugmentationList(build_train_augmentations(cfg, 255))(image)
        sizes.add(image.image.shape[:2])
    assert has_one_size(cfg) == (len(sizes) == 1)


def test_a_derived_policy_with_a_transform_of_its_own_sees_the_pixels():
    class Brightest(ResizeShortestEdge):
        """Resizes bright images only."""

        def get_transform(self, image):
            seen.append(int(image.max()))
            return super().get_transform(image)

    class BrightestAgain(Brightest):
        pass

    class SizeAlone(Brightest, BySize):
        pass

    image = np.full((8, 12, 3), 77, np.uint8)
    for policy, expected in ((Brightest, 77), (BrightestAgain, 77), (SizeAlone, 0)):
        seen = []
        augmented = AugmentationInput(image)
        policy(4)(augmented)
        assert seen == [expected]
        assert augmented.image.shape == (4, 6, 3)
