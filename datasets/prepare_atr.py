#!/usr/bin/env python
"""Splits ATR into 16,000 images for training, 700 for validation and 1,000 for testing, and 6 left over.

    python datasets/prepare_atr.py

The authors published 17,706 images and no split. This one follows from the names alone: they are sorted by
the SHA-256 of "segzoo atr 0/<name>", without suffix; the first 1,000 are for testing, the next 700 for
validation, the next 16,000 for training. So everyone who has all images has the same split, on every machine
and with every version of Python. Writes segzoo_split/{train,val,test,unused}.txt beside JPEGImages/.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from segzoo.data import read_dataset_file
from segzoo.errors import InputError

SEED = "segzoo atr 0"
# In this order: a small test set is the last that one wants to see changed.
SIZES = {"test": 1000, "val": 700, "train": 16000}
IMAGES = 17706


def find_root(given: str | None) -> Path:
    """The folder with JPEGImages/ and SegmentationClassAug/."""
    datasets = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
    roots = read_dataset_file("atr").layouts[0].roots
    candidates = [Path(given)] if given else [datasets / root for root in roots]
    for candidate in candidates:
        if (candidate / "JPEGImages").is_dir():
            return candidate
    raise InputError(
        f"no JPEGImages/ in {' or '.join(map(str, candidates))}; unpack humanparsing.zip there, or give "
        "--root"
    )


def read_stems(root: Path) -> list[str]:
    """The names of the images, without suffix.

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
    """Deals the names out, a split at a time; those left over are "unused". Each list is sorted."""
    ordered = sorted(stems, key=lambda stem: hashlib.sha256(f"{SEED}/{stem}".encode()).digest())
    lists, start = {}, 0
    for name, size in sizes.items():
        lists[name] = sorted(ordered[start : start + size])
        start += size
    return {**lists, "unused": sorted(ordered[start:])}


def prepare(root: Path, allow_incomplete: bool) -> None:
    """Writes the lists."""
    stems = read_stems(root)
    if len(stems) != IMAGES and not allow_incomplete:
        raise InputError(
            f"{root}: has {len(stems)} images, the published set {IMAGES}; a split of other images cannot be "
            "compared with anyone's. Complete it, or give --allow-incomplete"
        )
    folder = root / "segzoo_split"
    folder.mkdir(exist_ok=True)
    for name, names in split_names(stems, SIZES).items():
        (folder / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in names), encoding="utf-8")
        print(f"{folder / name}.txt: {len(names)} images")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", help="folder with JPEGImages/; default: below $DETECTRON2_DATASETS")
    parser.add_argument(
        "--allow-incomplete", action="store_true", help=f"split what is there, though it is not {IMAGES}"
    )
    args = parser.parse_args(arguments)
    try:
        prepare(find_root(args.root), args.allow_incomplete)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
