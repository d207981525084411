"""Check a copy of COCO-Stuff 164k, or write the label files that other projects read.

    segzoo prepare coco_stuff --check             # only count
    segzoo prepare coco_stuff                     # write stuffthingmaps_detectron2/*2017/*.png
    segzoo prepare coco_stuff --label-train-ids   # write *_labelTrainIds.png beside the labels

segzoo reads stuffthingmaps_trainval2017.zip as unpacked and needs no preparation. The files that are written
hold the classes 0..170 and 255 for void. Can be interrupted and started again: finished files stay, and no
file is ever half written.
"""

import argparse
from pathlib import Path

from segzoo.data import read_dataset_file

from .common import at_root, check_splits, export_class_indices

FOLDER, SUFFIX = "stuffthingmaps_detectron2", "_labelTrainIds.png"


def in_detectron2_folder(image: str, label: str) -> Path:
    """Return the path of an image's labels in the folder that Detectron2's projects read."""
    split = Path(label).parent
    return split.parent.parent / FOLDER / split.name / f"{Path(image).stem}.png"


def beside_label(image: str, label: str) -> Path:
    """Return the path that mmsegmentation's script writes for a label file."""
    return Path(label).with_name(Path(image).stem + SUFFIX)


def prepare(arguments: argparse.Namespace) -> bool:
    """Write the labels, or count with --check; return whether the dataset is complete."""
    dataset = at_root(read_dataset_file("coco_stuff"), arguments.root)
    if arguments.check:
        return check_splits(dataset)[1]
    target = beside_label if arguments.label_train_ids else in_detectron2_folder
    return export_class_indices(dataset, list(dataset.splits), target, arguments.workers)
