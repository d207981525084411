"""Make label files with VOC's 21 classes from COCO's instances, for pretraining before VOC.

    segzoo prepare coco_21
    segzoo prepare coco_21 --check                # only count

Reads coco/annotations/instances_{train,val}2017.json and writes coco/coco_21_labels/{train,val}2017/*.png,
palette images of 0..20, and coco/coco_21_labels/{train,val}2017.txt. As in GluonCV, where instances overlap,
the first in the JSON wins; other categories are background; only images with more than 1,000 labeled pixels
are used. Can be interrupted and started again; until a split is complete, its folder is called
train2017.partial.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from segzoo.cli.parallel import map_files
from segzoo.data import read_dataset_file
from segzoo.utils.coco_masks import mask_rle
from segzoo.utils.errors import InputError

from .common import at_root, check_splits, fill_folder, find_root, save_labels, save_lines

# COCO's category id of each VOC class, background first: aeroplane is airplane (5), and so on.
CATEGORIES = (0, 5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)
LEAST_PIXELS = 1000
FOLDER, SPLITS = "coco_21_labels", ("train2017", "val2017")


class Instances(NamedTuple):
    """An image of the JSON, and its instances of the 20 classes: (class, COCO's segmentation), in order."""

    stem: str
    height: int
    width: int
    instances: list[tuple[int, Any]]


def paint(image: Instances) -> np.ndarray:
    """Return (H, W) uint8 class indices; where instances overlap, the first wins."""
    labels = np.zeros((image.height, image.width), dtype=np.uint8)
    for index, segmentation in image.instances:
        labels[(labels == 0) & decode(segmentation, image)] = index
    return labels


def decode(segmentation: Any, image: Instances) -> np.ndarray:
    """Return the (H, W) bool mask of polygons, or of the RLE of a crowd."""
    size = (image.height, image.width)
    return coco_mask.decode(mask_rle(segmentation, size, f"{image.stem}: an instance")).astype(bool)


def convert(image: Instances, target: Path, palette: Sequence[Sequence[int]]) -> None:
    """Write one label file."""
    save_labels(paint(image), target, palette)


def has_enough(image: Instances) -> bool:
    """Return whether the image has more than LEAST_PIXELS labeled pixels."""
    return np.count_nonzero(paint(image)) > LEAST_PIXELS


def read_instances(file: Path) -> list[Instances]:
    """Return the images with an instance of the 20 classes."""
    try:
        content = json.loads(file.read_bytes())
        found = defaultdict(list)
        for one in content["annotations"]:
            if one["category_id"] in CATEGORIES:
                index = CATEGORIES.index(one["category_id"])
                found[one["image_id"]].append((index, one["segmentation"]))
        return [
            Instances(Path(one["file_name"]).stem, one["height"], one["width"], found[one["id"]])
            for one in content["images"]
            if one["id"] in found
        ]
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error}); download it again") from None
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: lacks {error}; it is not an instances file of COCO") from None


def select(images: list[Instances], workers: int, title: str) -> list[Instances]:
    """Return the images with enough labeled pixels."""
    enough = map_files(has_enough, images, workers, title, chunk=64)
    return [image for image, one in zip(images, enough, strict=True) if one]


def prepare(arguments: argparse.Namespace) -> bool:
    """Write labels and lists; return whether all could be made."""
    root = find_root("coco_21", arguments.root, "annotations", "unpack annotations_trainval2017.zip there")
    dataset, complete = read_dataset_file("coco_21"), True
    make = partial(convert, palette=[entry.color for entry in dataset.classes])
    for split in () if arguments.check else SPLITS:
        images = read_instances(root / f"annotations/instances_{split}.json")
        images = select(images, arguments.workers, f"{split}: counting pixels")
        jobs = {f"{image.stem}.png": image for image in images}
        if fill_folder(root / FOLDER / split, jobs, make, arguments.workers, split):
            save_lines(sorted(image.stem for image in images), root / FOLDER / f"{split}.txt")
        else:
            complete = False
    return check_splits(at_root(dataset, root))[1] and complete
