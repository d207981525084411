"""Make the panoptic labels of ADE20K: 150 classes, 100 of them things.

    segzoo prepare ade20k_panoptic
    segzoo prepare ade20k_panoptic --check            # only count

Unpack ADEChallengeData2016.zip, and in it annotations_instance.tar of the challenge of 2017
(http://sceneparsing.csail.mit.edu). Reads annotations/ (stuff) and annotations_instance/ (things, which lie
over stuff), and writes ade20k_panoptic_{train,val}/*.png and ade20k_panoptic_{train,val}.json, with the
segments of Mask2Former's script. Things without an instance are void. The id of a stuff segment is its label
in annotations/, 1..150; that of a thing is 1000 times this label plus the number of the instance. Can be
interrupted and started again; until a split is complete, its folder ends in .partial.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from segzoo.cli.panoptic_files import panoptic_categories
from segzoo.data import read_dataset_file
from segzoo.evaluation.prediction_io import save_ids
from segzoo.utils.errors import InputError

from .ade20k_annotations import FOLDERS, INSTANCES, REMEDY, read_instances, read_labels
from .common import find_root
from .panoptic import Image, PanopticSplit, count_splits, write_splits

CLASSES = 150


def convert(source: tuple[Path, Path], target: Path, is_thing: np.ndarray) -> None:
    """Write the panoptic PNG of an image: stuff from the semantic labels, and instances over it.

    Args:
        source: files of semantic labels, 0 for void and 1..150, and of instances: red is the category,
            1..100, green the number of the instance, 0 for none.
        is_thing: (151,) bool, by label.
    """
    labels, (category, number) = read_labels(source[0], 1), read_instances(source[1])
    if labels.shape != number.shape:
        raise InputError(
            f"{source[1]}: is {number.shape[1]}x{number.shape[0]}, but {source[0]} is "
            f"{labels.shape[1]}x{labels.shape[0]}; unpack both again"
        )
    if labels.max() > CLASSES:
        raise InputError(f"{source[0]}: label {labels.max()} is outside [0, {CLASSES}]; unpack it again")
    # The categories of the instances are the thing classes, in the same order.
    label_of = np.append(0, np.flatnonzero(is_thing))
    ids = np.where(is_thing[labels], 0, labels).astype(np.int64)
    things = number > 0
    ids[things] = label_of[category[things]] * INSTANCES + number[things]
    save_ids(target, ids)


def decode(segment_id: int) -> tuple[int, bool]:
    """Return the category of a segment id, from 0, and that it is no crowd."""
    return (segment_id // INSTANCES if segment_id >= INSTANCES else segment_id) - 1, False


def find_images(root: Path, folder: str) -> list[Image]:
    """Return the images of a split, sorted by name."""
    labels = ("annotations", "annotations_instance")
    stems = sorted(file.stem for file in (root / "images" / folder).glob("*.jpg"))
    return [
        Image(
            stem, f"{stem}.jpg", f"{stem}.png", tuple(root / name / folder / f"{stem}.png" for name in labels)
        )
        for stem in stems
    ]


def prepare(arguments: argparse.Namespace) -> bool:
    """Write the labels; return whether all images of the published set are there."""
    dataset = read_dataset_file("ade20k_panoptic")
    root = find_root("ade20k_panoptic", arguments.root, "annotations_instance", REMEDY)
    if arguments.check:
        return count_splits(dataset, root)
    is_thing = np.array([False, *(one.isthing for one in dataset.classes)])
    splits = [
        PanopticSplit(
            split,
            root / f"ade20k_panoptic_{split}",
            find_images(root, folder),
            f"images {root}/images/{folder}/*.jpg",
        )
        for split, folder in FOLDERS.items()
    ]
    make, categories = partial(convert, is_thing=is_thing), panoptic_categories(dataset)
    complete = write_splits(splits, make, decode, categories, arguments.workers)
    return count_splits(dataset, root) and complete
