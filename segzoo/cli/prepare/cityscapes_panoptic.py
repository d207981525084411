"""Make the panoptic labels of Cityscapes from its *_gtFine_instanceIds.png.

    segzoo prepare cityscapes_panoptic
    segzoo prepare cityscapes_panoptic --check            # only count

Unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into cityscapes/. Writes
gtFine/cityscapes_panoptic_{train,val}/*_gtFine_panoptic.png and gtFine/cityscapes_panoptic_{train,val}.json,
the same pixels and entries as those of cityscapesScripts (createPanopticImgs): an id is 1000 times the class
plus the number of the instance; for stuff, and for regions of things whose instances are not told apart
(crowds), it is the class alone. Can be interrupted and started again; until a split is complete, its folder
ends in .partial.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segzoo.cli.panoptic_files import panoptic_categories
from segzoo.data import read_dataset_file
from segzoo.data.encodings import INSTANCES
from segzoo.data.label_reader import opened_labels
from segzoo.evaluation.prediction_io import save_ids
from segzoo.utils.errors import InputError

from .common import find_root
from .panoptic import Image, PanopticSplit, count_splits, write_splits

SPLITS = ("train", "val")
SOURCE, TARGET = "_gtFine_instanceIds.png", "_gtFine_panoptic.png"
IDS = 34  # classes in the files, including void ones
# The groups of classes in cityscapesScripts, which are the supercategories of the JSON.
GROUPS = {
    "flat": ("road", "sidewalk"),
    "construction": ("building", "wall", "fence"),
    "object": ("pole", "traffic light", "traffic sign"),
    "nature": ("vegetation", "terrain"),
    "sky": ("sky",),
    "human": ("person", "rider"),
    "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
}


def convert(source: Path, target: Path, classes: Sequence[int]) -> None:
    """Write the panoptic PNG of an image: its instance ids, without those of void classes.

    Args:
        classes: ids of the classes that are not void.
    """
    with opened_labels(str(source)) as (image, _):
        ids = np.asarray(image)
    if ids.ndim != 2:
        raise InputError(f"{source}: has {ids.shape[2]} channels, expected ids of 16 bits; unpack it again")
    ids = ids.astype(np.int64)
    class_of = np.where(ids < INSTANCES, ids, ids // INSTANCES)
    if ids.min() < 0 or class_of.max() >= IDS:
        raise InputError(
            f"{source}: ids go from {ids.min()} to {ids.max()}, expected those of {IDS} classes; "
            "unpack it again"
        )
    is_labeled = np.zeros(IDS, dtype=bool)
    is_labeled[list(classes)] = True
    save_ids(target, np.where(is_labeled[class_of], ids, 0))


def decode(segment_id: int, things: frozenset[int]) -> tuple[int, bool]:
    """Return the class of an id, and whether it is a crowd: a thing class without an instance number."""
    if segment_id >= INSTANCES:
        return segment_id // INSTANCES, False
    return segment_id, segment_id in things


def find_images(root: Path, split: str) -> list[Image]:
    """Return the images of a split, sorted by city and file name."""
    images = []
    for file in sorted((root / "gtFine" / split).glob(f"*/*{SOURCE}"), key=str):
        stem = file.name.removesuffix(SOURCE)
        # cityscapesScripts writes this name, though images are called <stem>_leftImg8bit.png; readers use the
        # id.
        images.append(Image(stem, f"{stem}_gtFine_leftImg8bit.png", stem + TARGET, file))
    return images


def categories() -> list[dict[str, Any]]:
    """Return the categories as cityscapesScripts writes them."""
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    listed = panoptic_categories(read_dataset_file("cityscapes_panoptic"))
    return [{**one, "supercategory": group_of[one["name"]]} for one in listed]


def prepare(arguments: argparse.Namespace) -> bool:
    """Write the labels; return whether all images of the published set are there."""
    dataset = read_dataset_file("cityscapes_panoptic")
    root = find_root("cityscapes", arguments.root, "gtFine", "unpack gtFine_trainvaltest.zip there")
    if arguments.check:
        return count_splits(dataset, root)
    classes = [one.id for one in dataset.classes]
    things = frozenset(one.id for one in dataset.classes if one.isthing)
    splits = [
        PanopticSplit(
            split,
            root / f"gtFine/cityscapes_panoptic_{split}",
            find_images(root, split),
            f"{root}/gtFine/{split}/*/*{SOURCE}",
        )
        for split in SPLITS
    ]
    make, read = partial(convert, classes=classes), partial(decode, things=things)
    complete = write_splits(splits, make, read, categories(), arguments.workers)
    return count_splits(dataset, root) and complete
