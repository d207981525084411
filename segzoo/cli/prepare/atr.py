"""Split ATR into 16,000 images for training, 700 for validation and 1,000 for testing; 6 are left over.

    segzoo prepare atr
    segzoo prepare atr --check                # only count

The authors published 17,706 images and no split. This one follows from the names alone: they are sorted by
the SHA-256 of "segzoo atr 0/<name>", without suffix; the first 1,000 are for testing, the next 700 for
validation, the next 16,000 for training. So the split of the complete set is the same on every machine and
with every version of Python. Writes segzoo_split/{train,val,test,unused}.txt beside JPEGImages/.
"""

import argparse
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from segzoo.data import read_dataset_file
from segzoo.utils.errors import InputError

from .common import at_root, check_splits, find_root, save_lines

SEED = "segzoo atr 0"
# Test comes first, so that it does not change with the other sizes.
SIZES = {"test": 1000, "val": 700, "train": 16000}
IMAGES = 17706


def read_stems(root: Path) -> list[str]:
    """Return the names of the images, without suffix.

    Raises:
        InputError: an image has no label, or a label no image.
    """
    images = {file.stem for file in (root / "JPEGImages").glob("*.jpg")}
    labels = {file.stem for file in (root / "SegmentationClassAug").glob("*.png")}
    for lone, has, lacks in (
        (images - labels, "JPEGImages", "SegmentationClassAug"),
        (labels - images, "SegmentationClassAug", "JPEGImages"),
    ):
        if lone:
            raise InputError(
                f"{root}: {len(lone)} names of {has} are not in {lacks}, first {min(lone)}; unpack it again"
            )
    return sorted(images)


def split_names(stems: Iterable[str], sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """Assign the names to splits in the order of their hashes; the rest is "unused". Each list is sorted."""
    ordered = sorted(stems, key=lambda stem: hashlib.sha256(f"{SEED}/{stem}".encode()).digest())
    lists, start = {}, 0
    for name, size in sizes.items():
        lists[name] = sorted(ordered[start : start + size])
        start += size
    return {**lists, "unused": sorted(ordered[start:])}


def prepare(arguments: argparse.Namespace) -> bool:
    """Write the lists of images; with --check, return whether the published number is there, else True."""
    root = find_root("atr", arguments.root, "JPEGImages/", "unpack humanparsing.zip there")
    if arguments.check:
        return check_splits(at_root(read_dataset_file("atr"), root))[1]
    stems = read_stems(root)
    if len(stems) != IMAGES and not arguments.allow_incomplete:
        raise InputError(
            f"{root}: has {len(stems)} images, the published set {IMAGES}; results on another set are not "
            "comparable. Complete it, or give --allow-incomplete"
        )
    for name, names in split_names(stems, SIZES).items():
        file = root / "segzoo_split" / f"{name}.txt"
        save_lines(names, file)
        print(f"{file}: {len(names)} images")
    return True
