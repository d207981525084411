"""Write copies of ADE20K's labels with classes from 0 and void as 255, as Detectron2's projects read them.

    segzoo prepare ade20k
    segzoo prepare ade20k --check                 # only count

Reads annotations/{training,validation}/*.png (0 void, 1..150 classes) and writes annotations_detectron2/...
beside them. segzoo trains on either folder; other projects need the second. Can be interrupted and started
again; until a split is complete, its folder is called training.partial or validation.partial.
"""

import argparse
from pathlib import Path

import numpy as np

from segzoo.data import read_dataset_file
from segzoo.data.label_reader import opened_labels
from segzoo.utils.errors import InputError

from .common import at_root, check_splits, fill_folder, find_root, save_labels

SPLITS = ("training", "validation")
CLASSES = 150


def convert(source: Path, target: Path) -> None:
    """Write one label file."""
    with opened_labels(str(source)) as (image, _):
        if image.mode not in ("L", "P"):
            raise InputError(f"{source}: has the mode {image.mode}, expected gray labels of 8 bits")
        labels = np.asarray(image)
    if labels.max() > CLASSES:
        raise InputError(
            f"{source}: label {labels.max()} is outside [0, {CLASSES}]; is it converted already?"
        )
    # Void, 0, wraps around to 255.
    save_labels(labels - np.uint8(1), target)


def prepare(arguments: argparse.Namespace) -> bool:
    """Write the labels; return whether all images of the published set are there."""
    root = find_root("ade20k", arguments.root, "annotations/", "unpack ADEChallengeData2016.zip there")
    complete = True
    for split in () if arguments.check else SPLITS:
        jobs = {file.name: file for file in sorted((root / "annotations" / split).glob("*.png"))}
        complete &= fill_folder(
            root / "annotations_detectron2" / split, jobs, convert, arguments.workers, split
        )
    return check_splits(at_root(read_dataset_file("ade20k"), root))[1] and complete
