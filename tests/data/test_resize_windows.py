"""The resize of a crop's pixels alone, compared with Pillow, OpenCV and Detectron2's augmentations."""

import cv2
import numpy as np
import pytest
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, HFlipTransform
from PIL import Image

from segzoo.data.augmentation import pillow_resize
from segzoo.data.augmentation.build import AugmentationInput, CategoryCappedCrop, ResizeShortestEdge
from segzoo.data.augmentation.policies import RandomCrop, RandomFlip
from segzoo.data.augmentation.transforms import OpenCVResizeTransform, PillowResizeTransform
from segzoo.data.label_reader import IndexMap, Segments


def random_image(rng, height, width):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_labels(rng, height, width, dtype=np.uint8):
    return rng.integers(0, np.iinfo(dtype).max, (height, width), dtype=dtype)


def index_map_of(labels):
    """An index map whose class map is `labels`, with 255 for void."""
    return IndexMap(labels + np.uint8(1), Segments(np.arange(255), np.zeros(255, dtype=bool)))


def random_sizes(rng, largest_old, largest_new):
    old = tuple(rng.integers(1, largest_old, 2).tolist())
    new = tuple(rng.integers(1, largest_new, 2).tolist())
    height, width = (int(rng.integers(1, side + 1)) for side in new)
    top, left = int(rng.integers(0, new[0] - height + 1)), int(rng.integers(0, new[1] - width + 1))
    return old, new, (top, left, height, width)


@pytest.mark.parametrize("seed", range(4))
def test_a_window_has_the_pixels_of_pillows_resize(seed):
    rng = np.random.default_rng(seed)
    computed = 0
    for number in range(60):
        old, new, (top, left, height, width) = random_sizes(rng, 160, 240)
        new = (old[0], new[1]) if number % 6 == 0 else (new[0], old[1]) if number % 6 == 1 else new
        height, width = min(height, new[0]), min(width, new[1])
        top, left = min(top, new[0] - height), min(left, new[1] - width)
        pixels = random_image(rng, *old)
        # Black and white alone are where sums reach the ends of 8 bits.
        pixels = pixels if number % 3 else (pixels > 127).astype(np.uint8) * np.uint8(255)
        theirs = np.asarray(Image.fromarray(pixels).resize(new[::-1], Image.Resampling.BILINEAR))
        theirs = theirs[top : top + height, left : left + width]
        assert np.array_equal(
            PillowResizeTransform(*old, *new).image_window(pixels, (top, left, height, width)), theirs
        )
        ours = pillow_resize.resized_window(pixels, new, (top, left, height, width))
        if ours is not None:
            computed += 1
            assert ours.flags.c_contiguous
            assert np.array_equal(ours, theirs)
    pytest.importorskip("numba")
    assert computed > 30


def test_every_other_image_is_left_to_pillow(monkeypatch):
    pixels = random_image(np.random.default_rng(0), 12, 16)
    window = (2, 3, 5, 6)
    assert pillow_resize.resized_window(pixels.astype(np.float32), (20, 30), window) is None
    assert pillow_resize.resized_window(pixels[:, :, 0], (20, 30), window) is None
    tall = random_image(np.random.default_rng(0), 60, 16)
    assert pillow_resize.resized_window(tall, (20, 10), (0, 0, 20, 10)) is None  # Pillow 13's other order
    theirs = T.ResizeTransform(12, 16, 20, 30).apply_image(pixels)
    with monkeypatch.context() as without_numba:
        without_numba.setattr(pillow_resize, "load_loops", lambda module: None)
        pillow_resize._equals_pillow.cache_clear()
        assert pillow_resize.resized_window(pixels, (20, 30), window) is None
        assert np.array_equal(PillowResizeTransform(12, 16, 20, 30).apply_image(pixels), theirs)
    pillow_resize._equals_pillow.cache_clear()


def test_a_pillow_with_other_pixels_is_noticed(monkeypatch):
    pytest.importorskip("numba")
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda image, size, how: resize(image, size, Image.Resampling.BOX)
    )
    pillow_resize._equals_pillow.cache_clear()
    pixels = random_image(np.random.default_rng(0), 12, 16)
    assert pillow_resize.resized_window(pixels, (20, 30), (0, 0, 20, 30)) is None
    monkeypatch.undo()
    pillow_resize._equals_pillow.cache_clear()
    assert pillow_resize.resized_window(pixels, (20, 30), (0, 0, 20, 30)) is not None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("seed", range(3))
def test_windows_of_labels_take_the_pixels_of_pillow_and_opencv(seed, dtype):
    rng = np.random.default_rng(seed)
    for _ in range(40):
        old, new, (top, left, height, width) = random_sizes(rng, 400, 700)
        labels = random_labels(rng, *old, dtype)
        window = (slice(top, top + height), slice(left, left + width))
        # By Pillow's resize of 8 bits, which Detectron2 uses.
        bytes_of = [
            (labels >> shift & 255).astype(np.uint8) for shift in ((0, 8) if dtype == np.uint16 else (0,))
        ]
        planes = [
            np.asarray(Image.fromarray(one).resize(new[::-1], Image.Resampling.NEAREST)) for one in bytes_of
        ]
        theirs = sum(plane.astype(dtype) << dtype(8 * number) for number, plane in enumerate(planes))
        ours = PillowResizeTransform(*old, *new).label_window(labels, (top, left, height, width))
        assert ours.dtype == dtype
        assert np.array_equal(ours, theirs[window])
        theirs = cv2.resize(labels, new[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        ours = OpenCVResizeTransform(*new, old).label_window(labels, (top, left, height, width))
        assert np.array_equal(ours, theirs[window])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("share", [0.05, 1.0])
def test_resize_crop_and_flip_give_what_detectron2s_augmentations_give(seed, share):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(40, 120, 2).tolist()
    image, labels = random_image(rng, height, width), random_labels(rng, height, width) % np.uint8(30)
    short, crop = [30, 55, 90, 170], (48, 64)
    ours = [ResizeShortestEdge(short, 200, "choice"), CategoryCappedCrop(crop, share), RandomFlip(0.5)]
    theirs = [
        T.ResizeShortestEdge(short, 200, "choice"),
        T.RandomCrop_CategoryAreaConstraint("absolute", crop, share, 255)
        if share < 1
        else T.RandomCrop("absolute", crop),
        T.RandomFlip(0.5),
    ]
    mine, reference = AugmentationInput(image, index_map_of(labels)), T.AugInput(image, sem_seg=labels)
    np.random.seed(seed)
    made = T.AugmentationList(ours)(mine)
    np.random.seed(seed)
    T.AugmentationList(theirs)(reference)
    assert np.array_equal(mine.image, reference.image)
    assert np.array_equal(mine.sem_seg, reference.sem_seg)
    # Later users of the transforms, such as polygons, get the same ones.
    assert np.array_equal(made.apply_image(image), reference.image)


def test_a_second_resize_and_a_crop_beyond_the_image_are_those_of_detectron2():
    rng = np.random.default_rng(1)
    image, labels = random_image(rng, 50, 70), random_labels(rng, 50, 70) % np.uint8(200)
    steps = [
        HFlipTransform(70),
        PillowResizeTransform(50, 70, 80, 112),
        CropTransform(90, 60, 400, 400),
        PillowResizeTransform(20, 22, 33, 41),
        PillowResizeTransform(33, 41, 30, 50),
    ]
    mine, reference = AugmentationInput(image, index_map_of(labels)), T.AugInput(image, sem_seg=labels)
    for step in steps:
        mine.transform(step)
        plain = T.ResizeTransform(step.h, step.w, step.new_h, step.new_w) if hasattr(step, "new_h") else step
        reference.transform(plain)
    assert np.array_equal(mine.image, reference.image)
    assert np.array_equal(mine.sem_seg, reference.sem_seg)


class _LooksAtPixels(T.Augmentation):
    """A policy of a user's own, written for Detectron2."""

    def get_transform(self, image, sem_seg):
        self.seen = image.copy(), sem_seg.copy()
        return T.NoOpTransform()


def test_policies_that_look_at_pixels_see_them_resized_and_cropped():
    rng = np.random.default_rng(2)
    image, labels = random_image(rng, 40, 60), random_labels(rng, 40, 60) % np.uint8(9)
    for later in ([], [RandomCrop("absolute", (30, 30))]):
        policy = _LooksAtPixels()
        mine, reference = AugmentationInput(image, index_map_of(labels)), T.AugInput(image, sem_seg=labels)
        np.random.seed(0)
        T.AugmentationList([ResizeShortestEdge([70, 70], 200), *later, policy])(mine)
        np.random.seed(0)
        detectron2s = [T.RandomCrop("absolute", (30, 30))] if later else []
        T.AugmentationList([T.ResizeShortestEdge([70, 70], 200), *detectron2s])(reference)
        assert np.array_equal(policy.seen[0], reference.image)
        assert np.array_equal(policy.seen[1], reference.sem_seg)
