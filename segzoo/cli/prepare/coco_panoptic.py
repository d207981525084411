"""Check a copy of COCO panoptic, or write semantic labels for other projects.

    segzoo prepare coco_panoptic                     # check that it is complete and consistent
    segzoo prepare coco_panoptic --statistics        # count segments, crowds and entities, per class
    segzoo prepare coco_panoptic --semantic          # write coco/panoptic_semseg_{train,val}2017/*.png

segzoo needs no preparation: semantic labels and entities are derived from the panoptic ones in memory. The
PNGs that --semantic writes hold class indices 0..132 and 255 for void, as Detectron2's projects read them.
Can be interrupted and started again: finished files stay, and no file is ever half written.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from segzoo.cli.parallel import map_files
from segzoo.data import LabelReader, label_reader
from segzoo.utils.errors import InputError

from .common import save_labels


def check_labels(record: Mapping[str, Any], reader: LabelReader, target: Path | None) -> str | None:
    """Read one panoptic PNG; write its classes to `target` if given. Return a message if it is wrong."""
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
    """Print the numbers of segments, crowds and entities of a split."""
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


def prepare(arguments: argparse.Namespace) -> bool:
    """Check the splits; return whether they are complete and consistent."""
    complete = True
    for split in arguments.split:
        try:
            complete &= check_split(split, arguments)
        except InputError as error:
            print(error, file=sys.stderr)
            complete = False
    return complete


def check_split(split: str, arguments: argparse.Namespace) -> bool:
    """Check one split; return whether it is complete and consistent."""
    reader, metadata = label_reader(split), MetadataCatalog.get(split)
    records = DatasetCatalog.get(split)
    published = reader.dataset.image_counts[split]
    print(f"{split}: {len(records)} images, published: {published} ({metadata.panoptic_json})")
    if arguments.statistics:
        print_statistics(records, metadata.classes)
    problems = []
    if arguments.labels or arguments.semantic:
        target = None
        if arguments.semantic:
            target = Path(metadata.image_root).parent / f"panoptic_semseg_{Path(metadata.image_root).name}"
        check = partial(check_labels, reader=reader, target=target)
        results = map_files(check, records, arguments.workers, split, unit="file", chunk=32)
        problems = [one for one in results if one]
        for problem in problems:
            print(problem, file=sys.stderr)
        if target is not None:
            print(f"  semantic labels in {target}")
    return len(records) == published and not problems
