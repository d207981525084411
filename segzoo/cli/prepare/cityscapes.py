"""Check a copy of Cityscapes, or write the label files that other projects read.

    segzoo prepare cityscapes --check             # only count
    segzoo prepare cityscapes                     # write *_gtFine_labelTrainIds.png

segzoo reads leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip as unpacked and needs no preparation.
The files that are written, beside the *_labelIds.png of train and val, hold the classes 0..18 and 255 for
void, as those of cityscapesScripts. Can be interrupted and started again: finished files stay, and no file is
ever half written.
"""

import argparse
from pathlib import Path

from segzoo.data import read_dataset_file

from .common import at_root, check_splits, export_class_indices, find_root

SPLITS = ("cityscapes_sem_seg_train", "cityscapes_sem_seg_val")
SOURCE, TARGET = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


def train_id_file(image: str, label: str) -> Path:
    """Return the path of the *_labelTrainIds.png beside a label file."""
    return Path(label.removesuffix(SOURCE).removesuffix(TARGET) + TARGET)


def prepare(arguments: argparse.Namespace) -> bool:
    """Write the labels, or count with --check; return whether the dataset is complete."""
    root = find_root("cityscapes", arguments.root, "gtFine", "unpack gtFine_trainvaltest.zip there")
    dataset = at_root(read_dataset_file("cityscapes"), root)
    aliases = [split for split in dataset.splits if "_fine_" in split]
    if arguments.check:
        return check_splits(dataset, skip=aliases)[1]
    return export_class_indices(dataset, SPLITS, train_id_file, arguments.workers)
