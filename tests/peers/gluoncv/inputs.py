"""Images, labels and objects that both sides make, the same in every version of NumPy."""

from typing import NamedTuple

import numpy as np

from tests.peers.seeded import seeded_image, seeded_scene


def make_image(height: int, width: int) -> np.ndarray:
    """Return (3, H, W) uint8 with some structure."""
    c, y, x = np.meshgrid(np.arange(3), np.arange(height), np.arange(width), indexing="ij")
    return ((91 * (y // 6) + 57 * (x // 5) * (c + 1) + 23 * (x // 5) * (y // 6)) % 256).astype(np.uint8)


def labeled_images(
    count: int, seed: int, height: int, width: int, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 3, H, W) uint8 and labels (N, H, W) int64 below `num_classes`.

    A label of -1 is ignored: the first rows of each image but the first, and pixels all over.
    """
    images = np.stack([seeded_image(seed + index, height, width) for index in range(count)])
    labels = images.sum(1, dtype=np.int64) // 40 % (num_classes + 1) - 1
    for index in range(count):
        labels[index, : 8 * index] = -1
    return images, labels


class Objects(NamedTuple):
    """The objects of an image, which may not overlap.

    Attributes:
        boxes: (T, 4) float32 x0, y0, x1, y1; the last column and row of an object end there.
        classes: (T,) int64.
        masks: (T, H, W) bool.
    """

    boxes: np.ndarray
    classes: np.ndarray
    masks: np.ndarray


def objects_of(seed: int, height: int, width: int, classes: tuple[int, ...]) -> Objects:
    """Return one object for each class."""
    scene = seeded_scene(seed, height, width, classes, void=True)
    return Objects(scene.boxes().astype(np.float32), scene.classes.astype(np.int64), scene.masks)
