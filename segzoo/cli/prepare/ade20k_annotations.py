"""Reading annotations_instance/ of ADE20K, for the commands that make labels from it."""

from pathlib import Path

import numpy as np

from segzoo.data.label_reader import opened_labels
from segzoo.utils.errors import InputError

FOLDERS = {"train": "training", "val": "validation"}
THINGS = 100
INSTANCES = 1000  # above the number of instances in an image
REMEDY = "unpack annotations_instance.tar of the challenge of 2017 in ADEChallengeData2016"


def read_labels(file: Path, channels: int) -> np.ndarray:
    """Return the pixels of a label file, (H, W) or (H, W, 3) uint8.

    Raises:
        InputError: missing or broken file, or another image format.
    """
    with opened_labels(str(file)) as (image, _):
        pixels = np.asarray(image)
        found = 1 if pixels.ndim == 2 else pixels.shape[2]
        if found != channels or pixels.dtype != np.uint8:
            raise InputError(
                f"{file}: has {found} channels of {pixels.dtype}, expected {channels} of uint8; "
                "unpack it again"
            )
    return pixels


def read_instances(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the categories 1..100 (red) and instance numbers (green, 0 for none) of an image.

    Returns:
        Two (H, W) int64. A category may occur without an instance; an instance has one category.

    Raises:
        InputError: missing or broken file, or one that contradicts this.
    """
    pixels = read_labels(file, 3)
    category, number = pixels[:, :, 0].astype(np.int64), pixels[:, :, 1].astype(np.int64)
    if category.max() > THINGS or (category[number > 0] == 0).any():
        raise InputError(
            f"{file}: category {category[number > 0].max()} of an instance is outside [1, {THINGS}], or "
            "an instance has none; unpack it again"
        )
    pairs = np.unique(number * INSTANCES + category)
    pairs = pairs[pairs >= INSTANCES]
    if len(np.unique(pairs // INSTANCES)) < len(pairs):
        raise InputError(f"{file}: an instance has several categories; unpack it again")
    return category, number
