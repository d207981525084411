"""Make the images and label files of ADE20K-full, 847 classes, from the release ADE20K_2021_17_01.

    segzoo prepare ade20k_full
    segzoo prepare ade20k_full --check            # only count

Unpack the release below $DETECTRON2_DATASETS and put index_ade20k.pkl into ADE20K_2021_17_01/. Writes there
images_detectron2/{training,validation}/*.jpg, resized to a shorter side of at most 512 pixels, and
annotations_detectron2/{training,validation}/*.tif of 16 bits: 0..846 are classes, 65535 is void. Can be
interrupted and started again; until a split is complete, its folders are called training.partial or
validation.partial.
"""

import argparse
import pickle
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segzoo.data import read_dataset_file
from segzoo.data.label_reader import opened_image, opened_labels
from segzoo.utils.errors import InputError
from segzoo.utils.unpickling import unpickle_data

from .common import at_root, atomic_path, check_splits, fill_folder, find_root

INDEX, VOID, MOST_SIDE = "index_ade20k.pkl", 65535, 512
# Red is 10 times the upper part of the id, green the lower part.
IDS = 26 * 256
SPLITS = ("training", "validation")


def read_index(file: Path) -> dict[str, list[tuple[str, str]]]:
    """Return {"training" or "validation": [(folder, file name)]}; folders start with the release's name."""
    try:
        index = unpickle_data(file.read_bytes(), ())
        pairs = [
            (str(folder), str(name)) for folder, name in zip(index["folder"], index["filename"], strict=True)
        ]
    except FileNotFoundError:
        raise InputError(f"{file}: does not exist; download it from the dataset's page") from None
    except (OSError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as ADE20K's index ({error}); download it again") from None
    found: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    for folder, name in pairs:
        # ADE_train_00000001.jpg; what is not val is for training.
        found["validation" if name.split("_")[1] == "val" else "training"].append((folder, name))
    return found


def shrunk_size(height: int, width: int) -> tuple[int, int]:
    """Return height and width with the shorter side limited to 512."""
    if min(height, width) <= MOST_SIDE:
        return height, width
    if width >= height:
        return MOST_SIDE, round(width / height * MOST_SIDE)
    return round(height / width * MOST_SIDE), MOST_SIDE


def resized(pixels: np.ndarray, interpolation: int) -> np.ndarray:
    """Return pixels resized to `shrunk_size`."""
    height, width = pixels.shape[:2]
    new_height, new_width = shrunk_size(height, width)
    if (new_height, new_width) == (height, width):
        return pixels
    return cv2.resize(pixels, (new_width, new_height), interpolation=interpolation)


def write_image(source: Path, target: Path) -> None:
    """Write one resized image."""
    with opened_image(str(source)) as image:
        pixels = np.asarray(image)
    with atomic_path(target, durable=False) as file:
        Image.fromarray(resized(pixels, cv2.INTER_LINEAR)).save(file, format="JPEG")


def write_labels(source: Path, target: Path, table: np.ndarray) -> None:
    """Write the resized labels of one image, read from the PNG beside it."""
    label_file = source.with_name(f"{source.stem}_seg.png")
    with opened_labels(str(label_file)) as (image, _):
        if image.mode not in ("RGB", "RGBA"):
            raise InputError(f"{label_file}: has the mode {image.mode}, expected RGB; unpack it again")
        red, green = (np.asarray(image.getchannel(channel)) for channel in "RG")
    ids = red.astype(np.int32) // 10 * 256 + green
    with atomic_path(target, durable=False) as file:
        labels = Image.fromarray(table[resized(ids, cv2.INTER_NEAREST)])
        labels.save(file, format="TIFF", compression="tiff_deflate")


def label_table(ids: Sequence[int]) -> np.ndarray:
    """Return (6656,) uint16: class index of every id, 65535 for others."""
    table = np.full(IDS, VOID, dtype=np.uint16)
    table[list(ids)] = np.arange(len(ids))
    return table


def jobs_of(pairs: Sequence[tuple[str, str]], root: Path, suffix: str) -> Mapping[str, Path]:
    """Return {file to write: its image}. Paths in the index start with the release's folder."""
    sources = [root / Path(folder).relative_to(Path(folder).parts[0]) / name for folder, name in pairs]
    return {f"{source.stem}{suffix}": source for source in sources}


def prepare(arguments: argparse.Namespace) -> bool:
    """Write images and labels; return whether all images of the published set are there."""
    root = find_root("ade20k_full", arguments.root, "images", "unpack ADE20K_2021_17_01.zip there")
    dataset = read_dataset_file("ade20k_full")
    complete = True
    if not arguments.check:
        index = read_index(root / INDEX)
        make_labels = partial(write_labels, table=label_table([entry.id for entry in dataset.classes]))
        for split in SPLITS:
            for folder, suffix, make in (
                ("images_detectron2", ".jpg", write_image),
                ("annotations_detectron2", ".tif", make_labels),
            ):
                jobs = jobs_of(index[split], root, suffix)
                complete &= fill_folder(
                    root / folder / split, jobs, make, arguments.workers, f"{split} {suffix}"
                )
    return check_splits(at_root(dataset, root))[1] and complete
