#!/usr/bin/env python
"""Makes the panoptic labels of ADE20K: 150 classes, 100 of them things.

    python datasets/prepare_ade20k_panoptic.py
    python datasets/prepare_ade20k_panoptic.py --check            # count

Unpack ADEChallengeData2016.zip, and in it annotations_instance.tar of the challenge of 2017
(http://sceneparsing.csail.mit.edu). Reads annotations/ (stuff) and annotations_instance/ (things, which lie
over stuff), and writes ade20k_panoptic_{train,val}/*.png and ade20k_panoptic_{train,val}.json, with the
segments of Mask2Former's script. Things without an instance are void. The id of a stuff segment is its label
in annotations/, 1..150; that of a thing is 1000 times this label plus the number of the instance. Can be
interrupted and started again; until a split is complete, its folder ends in .partial.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from panoptic_preparation import Image, count_splits, write_split
from preparation import find_root, parser, run

# isort: split
import numpy as np

from segzoo.data import read_dataset_file
from segzoo.data.formats import opened_image
from segzoo.data.panoptic_files import panoptic_categories
from segzoo.errors import InputError
from segzoo.evaluation.files import save_ids

FOLDERS = {"train": "training", "val": "validation"}
CLASSES, THINGS = 150, 100
INSTANCES = 1000  # an id of an instance is this times its label, and more


def read_labels(file: Path, channels: int) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8.

    Raises:
        InputError: missing or broken file, or another kind of picture.
    """
    with opened_image(str(file)) as image:
        pixels = np.asarray(image)
        found = 1 if pixels.ndim == 2 else pixels.shape[2]
        if found != channels or pixels.dtype != np.uint8:
            raise InputError(
                f"{file}: has {found} channels of {pixels.dtype}, expected {channels} of uint8; "
                "unpack it again"
            )
    return pixels


def convert(source: tuple[Path, Path], target: Path, is_thing: np.ndarray) -> None:
    """Writes the panoptic PNG of an image: stuff of the semantic labels, and instances over it.

    Args:
        source: semantic labels, 0 for void and 1..150; and instances: red is the category, 1..100, green the
            number of the instance, 0 for none.
        is_thing: (151,) bool, by label.
    """
    labels, instances = read_labels(source[0], 1), read_labels(source[1], 3)
    if labels.shape != instances.shape[:2]:
        raise InputError(
            f"{source[1]}: is {instances.shape[1]}x{instances.shape[0]}, but {source[0]} is "
            f"{labels.shape[1]}x{labels.shape[0]}; unpack both again"
        )
    category, number = instances[:, :, 0].astype(np.int64), instances[:, :, 1].astype(np.int64)
    if labels.max() > CLASSES:
        raise InputError(f"{source[0]}: label {labels.max()} is outside [0, {CLASSES}]; unpack it again")
    if category.max() > THINGS or (category[number > 0] == 0).any():
        raise InputError(
            f"{source[1]}: category {category[number > 0].max()} of an instance is outside [1, {THINGS}], or "
            "an instance has none; unpack it again"
        )
    pairs = np.unique(number * INSTANCES + category)
    pairs = pairs[pairs >= INSTANCES]
    if len(np.unique(pairs // INSTANCES)) < len(pairs):
        raise InputError(f"{source[1]}: an instance has several categories; unpack it again")
    # The categories of the instances are the thing classes, in the same order.
    label_of = np.append(0, np.flatnonzero(is_thing))
    ids = np.where(is_thing[labels], 0, labels).astype(np.int64)
    things = number > 0
    ids[things] = label_of[category[things]] * INSTANCES + number[things]
    save_ids(target, ids)


def decode(segment_id: int) -> tuple[int, bool]:
    """The category of an id, which counts from 0; there are no crowds."""
    return (segment_id // INSTANCES if segment_id >= INSTANCES else segment_id) - 1, False


def find_images(root: Path, folder: str) -> list[Image]:
    """The images of a split, by name."""
    kinds = ("annotations", "annotations_instance")
    stems = sorted(file.stem for file in (root / "images" / folder).glob("*.jpg"))
    return [
        Image(
            stem, f"{stem}.jpg", f"{stem}.png", tuple(root / kind / folder / f"{stem}.png" for kind in kinds)
        )
        for stem in stems
    ]


def prepare(args: argparse.Namespace) -> bool:
    dataset = read_dataset_file("ade20k_panoptic")
    remedy = "unpack annotations_instance.tar of the challenge of 2017 in ADEChallengeData2016"
    root = find_root("ade20k_panoptic", args.root, "annotations_instance", remedy)
    if args.check:
        return count_splits(dataset, root)
    is_thing = np.array([False, *(one.isthing for one in dataset.classes)])
    complete = True
    for split, folder in FOLDERS.items():
        images = find_images(root, folder)
        if not images:
            print(f"{split}: no images {root}/images/{folder}/*.jpg", file=sys.stderr)
            complete = False
            continue
        complete &= write_split(
            root / f"ade20k_panoptic_{split}",
            images,
            partial(convert, is_thing=is_thing),
            decode,
            panoptic_categories(dataset),
            args.workers,
            split,
        )
    return count_splits(dataset, root) and complete


def main(arguments: Sequence[str] | None = None) -> int:
    text = "ADEChallengeData2016, with images/, annotations/ and annotations_instance/"
    return run(prepare, parser(__doc__, text).parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
