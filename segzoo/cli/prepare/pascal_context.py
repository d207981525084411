"""Make the label files of PASCAL Context, 59 classes, from either of its published formats.

    segzoo prepare pascal_context                          # finds either in VOC2010/
    segzoo prepare pascal_context --annotations trainval/  # the authors' .mat files
    segzoo prepare pascal_context --check                  # only count

Unpack VOCtrainval_03-May-2010.tar (VOCdevkit/VOC2010) and put trainval_merged.json, or the folder trainval/
with the authors' 10,103 .mat files, into VOC2010. Writes SegmentationClassContext/*.png (0 is void, 1..59
the classes in alphabetical order) and ImageSets/SegmentationContext/{train,val}.txt. The JSON gives 4,996
and 5,104 images, the .mat files and VOC's own lists 4,998 and 5,105: say in a paper which were used. Can be
interrupted and started again; until it is complete, the folder is called SegmentationClassContext.partial.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from segzoo.data import read_dataset_file
from segzoo.utils.errors import InputError

from .common import (
    at_root,
    check_splits,
    fill_folder,
    find_root,
    read_lines,
    read_mat,
    save_labels,
    save_lines,
)

JSON, MAT_FOLDERS = "trainval_merged.json", ("trainval", "../trainval", "pascal-context/trainval")
LABELS, LISTS = "SegmentationClassContext", "ImageSets/SegmentationContext"
# Numbers of images with the authors' .mat files; those with the JSON are in the dataset's YAML.
MAT_COUNTS = {"pascal_context_59_sem_seg_train": 4998, "pascal_context_59_sem_seg_val": 5105}
NATIVE_LABELS = 459


class Regions(NamedTuple):
    """The labels of one image in the JSON: its size, and RLE masks with their native labels."""

    name: str
    height: int
    width: int
    masks: list[tuple[int, Mapping[str, Any]]]


def label_table() -> np.ndarray:
    """Return (460,) uint8: 1..59 for the native labels of the classes, 0 for others."""
    table = np.zeros(NATIVE_LABELS + 1, dtype=np.uint8)
    for number, entry in enumerate(read_dataset_file("pascal_context").classes, 1):
        table[entry.id] = number
    return table


def convert(source: Regions | Path, target: Path, table: np.ndarray, palette: Sequence[int]) -> None:
    """Write one label file."""
    if isinstance(source, Path):
        name, native = str(source), read_mat(source, "LabelMap")
    else:
        name, native = source.name, paint(source)
    if native.ndim != 2 or native.min() < 0 or native.max() > NATIVE_LABELS:
        raise InputError(f"{name}: labels go up to {native.max()}, expected at most {NATIVE_LABELS}")
    save_labels(table[native], target, palette)


def paint(regions: Regions) -> np.ndarray:
    """Return (H, W) native labels; the regions of the JSON do not overlap."""
    native = np.zeros((regions.height, regions.width), dtype=np.int64)
    for label, encoded in regions.masks:
        if list(encoded["size"]) != [regions.height, regions.width]:
            raise InputError(
                f"{regions.name}: is {regions.width}x{regions.height}, but a mask has the size "
                f"{encoded['size']} (height, width); download the JSON again"
            )
        native[coco_mask.decode(encoded).astype(bool)] = label
    return native


def read_annotations(file: Path) -> dict[str, dict[str, Regions]]:
    """Return {"train" or "val": {image name: its regions}}."""
    try:
        content = json.loads(file.read_bytes())
        images = {one["image_id"]: one for one in content["images"] if one["phase"] in ("train", "val")}
        masks = defaultdict(list)
        for one in content["annos_segmentation"]:
            masks[one["image_id"]].append((one["category_id"], one["segmentation"]))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error}); download it again") from None
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: lacks {error}; it is not {JSON} of PASCAL in Detail") from None
    splits: dict[str, dict[str, Regions]] = {"train": {}, "val": {}}
    for image_id, one in images.items():
        name = Path(one["file_name"]).stem
        splits[one["phase"]][name] = Regions(name, one["height"], one["width"], masks[image_id])
    return splits


def read_folder(root: Path, folder: Path) -> dict[str, dict[str, Path]]:
    """Return {"train" or "val": {image name: its .mat file}} for the images in VOC 2010's lists."""
    lists = {
        split: read_lines(root / f"ImageSets/Main/{split}.txt", "unpack VOCtrainval_03-May-2010.tar again")
        for split in ("train", "val")
    }
    return {
        split: {name.split()[0]: folder / f"{name.split()[0]}.mat" for name in names}
        for split, names in lists.items()
    }


def find_annotations(root: Path, given: str | None) -> Path:
    """Return the JSON, or the folder of .mat files."""
    candidates = [Path(given)] if given else [root / name for name in (JSON, *MAT_FOLDERS)]
    for candidate in candidates:
        if candidate.is_file() or any(candidate.glob("*.mat")):
            return candidate
    raise InputError(f"neither {JSON} nor *.mat in {root}; put one there, or give --annotations")


def prepare(arguments: argparse.Namespace) -> bool:
    """Write labels and lists; return whether all images of one of the published sets are there."""
    root = find_root(
        "pascal_context", arguments.root, "JPEGImages", "unpack VOCtrainval_03-May-2010.tar there"
    )
    dataset = read_dataset_file("pascal_context")
    if not arguments.check:
        annotations = find_annotations(root, arguments.annotations)
        print(f"reading {annotations}")
        splits = read_annotations(annotations) if annotations.is_file() else read_folder(root, annotations)
        jobs = {f"{name}.png": job for of_split in splits.values() for name, job in of_split.items()}
        palette = [(0, 0, 0), *(entry.color for entry in dataset.classes)]
        make = partial(convert, table=label_table(), palette=palette)
        if not fill_folder(root / LABELS, jobs, make, arguments.workers, "PASCAL Context"):
            return False
        for split, of_split in splits.items():
            save_lines(sorted(of_split), root / LISTS / f"{split}.txt")
    return check_splits(at_root(dataset, root), also=MAT_COUNTS)[1]
