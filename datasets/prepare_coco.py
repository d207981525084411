#!/usr/bin/env python
"""Checks a copy of COCO panoptic and, on request, writes semantic labels for other projects.

    python datasets/prepare_coco.py                     # is everything there and consistent?
    python datasets/prepare_coco.py --statistics        # segments, crowds and entities, per class
    python datasets/prepare_coco.py --semantic          # write coco/panoptic_semseg_{train,val}2017/*.png

segzoo needs no preparation: semantic labels and entities are derived from the panoptic ones in memory. The
PNGs that --semantic writes hold class indices 0..132 and 255 for void, as Detectron2's projects read them. It
can be interrupted and started again: finished files stay, and no file is ever half written.
"""

import argparse
import multiprocessing
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from preparation import CommandLine, explained, save_labels
from tqdm import tqdm

from segzoo.data import LabelReader, label_reader
from segzoo.data.workers import as_worker
from segzoo.utils.errors import InputError

SPLITS = ("coco_2017_train_panoptic", "coco_2017_val_panoptic")


def check_labels(record: Mapping[str, Any], reader: LabelReader, target: Path | None) -> str | None:
    """Reads one panoptic PNG; writes its classes to `target` if given. Returns a message if it is wrong."""
    file = target / Path(record["pan_seg_file_name"]).name if target else None
    if file is not None and file.exists():
        return None
    try:
        labels = reader.class_map(reader.load_index_map(record))
    except InputError as error:
        return str(error)
    if file is not None:
        save_labels(labels, file)
    return None


def print_statistics(records: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
    """Segments, crowds and entities of a split."""
    segments = [segment for record in records for segment in record["segments_info"]]
    crowds = sum(bool(segment["iscrowd"]) for segment in segments)
    entities = [sum(not one["iscrowd"] for one in record["segments_info"]) for record in records]
    print(f"  {len(segments)} segments, {crowds} of them crowds")
    print(
        f"  entities in an image: mean {np.mean(entities):.1f}, median {np.median(entities):.0f}, "
        f"most {max(entities)}; {entities.count(0)} images without any"
    )
    counts = Counter(segment["category_id"] for segment in segments)
    for index, name in enumerate(classes):
        print(f"  {counts[index]:8d}  {name}")


def prepare(split: str, args: argparse.Namespace) -> bool:
    """Checks one split; returns whether it is complete and consistent."""
    reader, metadata = label_reader(split), MetadataCatalog.get(split)
    records = DatasetCatalog.get(split)
    published = reader.dataset.image_counts[split]
    print(f"{split}: {len(records)} images, published: {published} ({metadata.panoptic_json})")
    if args.statistics:
        print_statistics(records, metadata.classes)
    problems = []
    if args.labels or args.semantic:
        target = None
        if args.semantic:
            target = Path(metadata.image_root).parent / f"panoptic_semseg_{Path(metadata.image_root).name}"
        check = partial(check_labels, reader=reader, target=target)
        with multiprocessing.Pool(args.workers, initializer=as_worker) as pool:
            results = pool.imap_unordered(check, records, chunksize=32)
            problems = [one for one in tqdm(results, split, len(records), unit="file") if one]
        for problem in problems:
            print(problem, file=sys.stderr)
        if target is not None:
            print(f"  semantic labels in {target}")
    return len(records) == published and not problems


@explained
def main(arguments: Sequence[str] | None = None) -> int:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="which (default: both)")
    parser.add_argument(
        "--labels", action="store_true", help="read every panoptic PNG and compare with the JSON"
    )
    parser.add_argument("--semantic", action="store_true", help="write semantic label PNGs; implies --labels")
    parser.add_argument("--statistics", action="store_true", help="count segments and entities")
    parser.add_workers(least=1)
    args = parser.parse_args(arguments)
    complete = True
    for split in args.splits:
        try:
            complete &= prepare(split, args)
        except InputError as error:
            print(error, file=sys.stderr)
            complete = False
    if not complete:
        print("the dataset is not complete; datasets/README.md shows what belongs where", file=sys.stderr)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
