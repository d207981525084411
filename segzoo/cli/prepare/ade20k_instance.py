"""Make the instance labels of ADE20K in COCO's format: 100 classes.

    segzoo prepare ade20k_instance
    segzoo prepare ade20k_instance --check            # only count

Unpack ADEChallengeData2016.zip, and in it annotations_instance.tar of the challenge of 2017
(http://sceneparsing.csail.mit.edu). Reads annotations_instance/ and writes ade20k_instance_{train,val}.json,
with the image ids, category ids (class of scene parsing, from 0) and masks of Mask2Former's script. A file is
written when its split is complete.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segzoo.cli.panoptic_files import measure_segments
from segzoo.cli.parallel import map_files
from segzoo.data import read_dataset_file
from segzoo.evaluation.instance import encode_mask
from segzoo.utils.errors import InputError

from .ade20k_annotations import FOLDERS, REMEDY, read_instances
from .common import atomic_path, find_root
from .panoptic import count_splits

Described = tuple[dict[str, Any], list[dict[str, Any]]]


def describe(file: Path, category_ids: Sequence[int]) -> Described | str:
    """Return the entries of an image under `images` and `annotations`, or why there are none.

    Args:
        file: its PNG of instances.
        category_ids: COCO ids of the categories 1, 2, ... of the file.
    """
    try:
        category, number = read_instances(file)
    except InputError as error:
        return str(error)
    height, width = number.shape
    annotations = []
    for instance, measured in measure_segments(number).items():
        mask = number == instance
        annotation = {"image_id": file.stem, "category_id": category_ids[category[mask][0] - 1], "iscrowd": 0}
        annotations.append({**annotation, **measured, "segmentation": encode_mask(mask)})
    return {"id": file.stem, "file_name": f"{file.stem}.jpg", "width": width, "height": height}, annotations


def write_split(root: Path, split: str, dataset: Any, workers: int) -> bool:
    """Write the JSON of a split unless it exists; return whether it is complete."""
    target = root / f"ade20k_instance_{split}.json"
    if target.is_file():
        print(f"{split}: {target} is there")
        return True
    stems = sorted(file.stem for file in (root / "images" / FOLDERS[split]).glob("*.jpg"))
    if not stems:
        print(f"{split}: no images {root}/images/{FOLDERS[split]}/*.jpg", file=sys.stderr)
        return False
    files = [root / "annotations_instance" / FOLDERS[split] / f"{stem}.png" for stem in stems]
    read = partial(describe, category_ids=[one.id for one in dataset.classes])
    found = list(map_files(read, files, workers, split, unit="file", chunk=16))
    problems = [one for one in found if isinstance(one, str)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(f"{split}: not written; repair these {len(problems)} files", file=sys.stderr)
        return False
    annotations = [annotation for _, of_image in found for annotation in of_image]
    document = {
        "images": [image for image, _ in found],
        "annotations": [{"id": number, **one} for number, one in enumerate(annotations, 1)],
        "categories": [{"id": one.id, "name": one.name} for one in dataset.classes],
    }
    with atomic_path(target) as file:
        file.write_text(json.dumps(document), encoding="utf-8")
    print(f"{split}: {len(annotations)} instances in {target}")
    return True


def prepare(arguments: argparse.Namespace) -> bool:
    """Write the JSONs; return whether all images of the published set are there."""
    dataset = read_dataset_file("ade20k_instance")
    root = find_root("ade20k_instance", arguments.root, "annotations_instance", REMEDY)
    complete = True
    for split in () if arguments.check else FOLDERS:
        complete &= write_split(root, split, dataset, arguments.workers)
    return count_splits(dataset, root) and complete
