#!/usr/bin/env python
"""Writes ADE20K's labels once more with classes from 0 and void as 255, as Detectron2's projects read them.

    python datasets/prepare_ade20k.py

Reads annotations/{training,validation}/*.png (0 void, 1..150 classes) and writes annotations_detectron2/...
beside them. segzoo trains on either folder; other projects need the second. Can be interrupted and started
again: until a split is complete, its files are in annotations_detectron2.partial/, where nothing reads them;
finished ones stay.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from segzoo.data import read_dataset_file
from segzoo.data.formats import opened_image
from segzoo.errors import InputError

SPLITS = {"training": "ade20k_sem_seg_train", "validation": "ade20k_sem_seg_val"}
CLASSES = 150
TARGET = "annotations_detectron2"


def find_root(given: str | None) -> Path:
    """The folder with images/ and annotations/."""
    datasets = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    candidates = [Path(given)] if given else [datasets / root for root in read_roots()]
    for candidate in candidates:
        if (candidate / "annotations").is_dir():
            return candidate
    raise InputError(
        f"no annotations/ in {' or '.join(map(str, candidates))}; unpack ADEChallengeData2016.zip there, "
        "or give --root"
    )


def read_roots() -> tuple[str, ...]:
    """The folders below $DETECTRON2_DATASETS where the dataset may lie."""
    return read_dataset_file("ade20k").layouts[0].roots


def convert(source: Path, target_folder: Path) -> str | None:
    """Writes one label file; returns a message where that is not possible."""
    target = target_folder / source.name
    if target.exists():
        return None
    try:
        with opened_image(str(source)) as image:
            labels = np.asarray(image)
            if image.mode not in ("L", "P"):
                raise InputError(f"{source}: has the mode {image.mode}, expected gray labels of 8 bits")
    except InputError as error:
        return str(error)
    if labels.max() > CLASSES:
        return f"{source}: label {labels.max()} is outside [0, {CLASSES}]; is it converted already?"
    # Void, 0, wraps around to 255.
    partial_file = target.with_name(f".{target.name}.{os.getpid()}")
    Image.fromarray(labels - np.uint8(1)).save(partial_file, format="PNG")
    os.replace(partial_file, target)
    return None


def take_back(target: Path, unfinished: Path, names: set[str]) -> bool:
    """Moves a folder that lacks files to where it is completed; returns whether there is work to do."""
    there = {file.name for file in target.iterdir()} if target.is_dir() else set()
    if names <= there:
        return False
    unfinished.mkdir(parents=True, exist_ok=True)
    for name in there:
        os.replace(target / name, unfinished / name)
    if target.is_dir():
        target.rmdir()
    return True


def publish(unfinished: Path, target: Path) -> None:
    """Gives a complete folder its name, in one step."""
    for left_over in unfinished.glob(".*"):  # of a process that was killed
        left_over.unlink()
    target.parent.mkdir(exist_ok=True)
    os.replace(unfinished, target)
    if not any(unfinished.parent.iterdir()):
        unfinished.parent.rmdir()


def prepare(root: Path, workers: int) -> bool:
    """Converts both splits, reports, and returns whether all images of the published set are there."""
    counts = read_dataset_file("ade20k").image_counts
    complete = True
    for split, name in SPLITS.items():
        sources = sorted((root / "annotations" / split).glob("*.png"))
        target = root / TARGET / split
        unfinished = root / f"{TARGET}.partial" / split
        todo = sources if take_back(target, unfinished, {source.name for source in sources}) else []
        with multiprocessing.Pool(workers) as pool:
            results = pool.imap_unordered(partial(convert, target_folder=unfinished), todo, chunksize=16)
            problems = [one for one in tqdm(results, split, len(todo), unit="file") if one]
        for problem in problems:
            print(problem, file=sys.stderr)
        if problems:
            print(f"{split}: stays in {unfinished} until these files are repaired", file=sys.stderr)
        elif todo:
            publish(unfinished, target)
        written = sum(1 for _ in (unfinished if problems else target).glob("[!.]*.png"))
        print(f"{split}: {written} label files, published: {counts[name]}")
        complete &= written == counts[name] and not problems
    return complete


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", help="folder ADEChallengeData2016; default: below $DETECTRON2_DATASETS")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes (default: one per core)"
    )
    args = parser.parse_args(arguments)
    try:
        complete = prepare(find_root(args.root), args.workers)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if not complete:
        print("the dataset is not complete; what is there can be used", file=sys.stderr)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
