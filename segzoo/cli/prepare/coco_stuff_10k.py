"""Make the label files of COCO-Stuff 10k from the .mat files of either release.

    segzoo prepare coco_stuff_10k
    segzoo prepare coco_stuff_10k --check         # only count

Unpack cocostuff-10k-v1.0.zip or -v1.1.zip so that coco/coco_stuff_10k/ has annotations/, images/ and
imageLists/. Writes annotations_detectron2/{train,test}/*.png: 0..170 are classes, 255 is void. The release
is detected: v1.0 has HDF5 (reading it needs `pip install h5py`) with labels 1..172 without gaps,
v1.1 has Matlab's older format with COCO's ids 0..182. Can be interrupted and started again; until a split is
complete, its folder is called train.partial or test.partial.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from segzoo.data import read_dataset_file
from segzoo.utils.errors import InputError

from .common import at_root, check_splits, fill_folder, find_root, read_lines, read_mat, save_labels

SPLITS, VOID = ("train", "test"), 255
# Offsets at which HDF5 may begin: Matlab puts a header of 512 bytes before it.
HDF5_SIGNATURE, HDF5_STARTS = b"\x89HDF\r\n\x1a\n", (0, 512, 1024, 2048)


def dense_table(classes: int) -> np.ndarray:
    """Return the (256,) int32 label table of v1.0: 1 is unlabeled, 2.. are classes; other labels are -1."""
    table = np.full(256, -1, dtype=np.int32)
    table[1] = VOID
    table[2 : classes + 2] = np.arange(classes)
    return table


def sparse_table(ids: Sequence[int]) -> np.ndarray:
    """Return the (256,) int32 label table of v1.1: 0 is unlabeled, COCO's ids are classes; others are -1."""
    table = np.full(256, -1, dtype=np.int32)
    table[0] = VOID
    table[list(ids)] = np.arange(len(ids))
    return table


def is_hdf5(file: Path) -> bool:
    """Return whether a file has HDF5's signature."""
    with file.open("rb") as opened:
        start = opened.read(HDF5_STARTS[-1] + len(HDF5_SIGNATURE))
    return any(start[offset:].startswith(HDF5_SIGNATURE) for offset in HDF5_STARTS)


def read_hdf5(file: Path) -> np.ndarray:
    """Return the (H, W) variable S, transposed, since HDF5 has Matlab's columns as rows."""
    try:
        import h5py
    except ImportError:
        raise InputError(f"{file}: is HDF5 (COCO-Stuff 10k v1.0); pip install h5py to read it") from None
    try:
        with h5py.File(file, "r") as opened:
            return np.asarray(opened["S"]).T
    except (OSError, KeyError) as error:
        raise InputError(f"{file}: has no readable S ({error}); unpack the archive again") from None


def convert(name: str, target: Path, root: Path, ids: Sequence[int]) -> None:
    """Write one label file, after comparing its size with that of the image."""
    source, image = root / f"annotations/{name}.mat", root / f"images/{name}.jpg"
    for file in (source, image):
        if not file.is_file():
            raise InputError(f"{file}: does not exist; unpack the archive again")
    dense = is_hdf5(source)
    stored = read_hdf5(source) if dense else read_mat(source, "S")
    table = dense_table(len(ids)) if dense else sparse_table(ids)
    with Image.open(image) as opened:
        width, height = opened.size
    if stored.shape != (height, width):
        raise InputError(f"{source}: has the shape {stored.shape}, its image is {width}x{height}")
    known = (stored >= 0) & (stored < len(table))
    labels = table[np.where(known, stored, 0).astype(np.intp)]
    if not known.all() or labels.min() < 0:
        wrong = stored[~known | (labels < 0)].flat[0]
        expected = f"1..{len(ids) + 1}" if dense else "0 or an id of COCO-Stuff's classes"
        raise InputError(f"{source}: label {wrong} is not {expected}; unpack the archive again")
    save_labels(labels.astype(np.uint8), target)


def prepare(arguments: argparse.Namespace) -> bool:
    """Write the labels; return whether all images of the published set are there."""
    root = find_root("coco_stuff_10k", arguments.root, "imageLists", "unpack cocostuff-10k-v1.1.zip there")
    dataset = read_dataset_file("coco_stuff_10k")
    complete = True
    if not arguments.check:
        make = partial(convert, root=root, ids=[entry.id for entry in dataset.classes])
        for split in SPLITS:
            names = read_lines(root / f"imageLists/{split}.txt", "unpack the archive again")
            jobs = {f"{name}.png": name for name in names}
            complete &= fill_folder(
                root / f"annotations_detectron2/{split}", jobs, make, arguments.workers, split
            )
    return check_splits(at_root(dataset, root))[1] and complete
