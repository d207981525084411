#!/usr/bin/env python
"""Checks a copy of COCO-Stuff 164k and, on request, writes the label files that other projects read.

    python datasets/prepare_coco_stuff.py --check             # is everything there?
    python datasets/prepare_coco_stuff.py                     # write stuffthingmaps_detectron2/*2017/*.png
    python datasets/prepare_coco_stuff.py --label-train-ids   # write *_labelTrainIds.png beside the labels

segzoo reads stuffthingmaps_trainval2017.zip as it unpacks and needs no preparation. The files that are
written hold the classes 0..170 and 255 for void. Can be interrupted and started again: finished files stay,
none is ever half written.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from preparation import at_root, check_splits, explained, export_class_indices, parser, run

from segzoo.data import read_dataset_file

FOLDER, SUFFIX = "stuffthingmaps_detectron2", "_labelTrainIds.png"


def in_detectron2_folder(image: str, label: str) -> Path:
    """Beside the folder of labels that has one folder for each split."""
    split = Path(label).parent
    return split.parent.parent / FOLDER / split.name / f"{Path(image).stem}.png"


def beside_label(image: str, label: str) -> Path:
    """The file that mmsegmentation's script makes of a label file."""
    return Path(label).with_name(Path(image).stem + SUFFIX)


def prepare(args: argparse.Namespace) -> bool:
    dataset = at_root(read_dataset_file("coco_stuff"), args.root)
    if args.check:
        return check_splits(dataset)[1]
    target = beside_label if args.label_train_ids else in_detectron2_folder
    return export_class_indices(dataset, list(dataset.splits), target, args.workers)


@explained
def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__, "coco, with train2017/, val2017/ and stuffthingmaps/")
    options.add_argument("--label-train-ids", action="store_true", help="write them beside the labels")
    return run(prepare, options.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
