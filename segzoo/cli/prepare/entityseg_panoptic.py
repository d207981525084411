"""Make the JSONs of EntitySeg's panoptic labels: 350 classes.

    segzoo prepare entityseg_panoptic
    segzoo prepare entityseg_panoptic --check         # only count

Reads annotations/panoptic_segmentation/entityv2_01_panoptic_{train,val}.json and the PNGs in
panoptic_maps_{train,val}/, and writes entityseg_panoptic_{train,val}.json beside them: the release names the
images where COCO's format names the PNGs. Areas and boxes are measured in the PNGs. The annotations are for
non-commercial research only (Adobe Research License).
"""

import argparse
import sys
from pathlib import Path, PurePosixPath

from segzoo.cli.panoptic_files import panoptic_categories
from segzoo.data import read_dataset_file
from segzoo.data.coco_json import read_coco_json, report_wrong_format

from .common import at_root, check_splits, find_root
from .released_panoptic import Annotated, write_json

FOLDER = "annotations/panoptic_segmentation"
IMAGES = "entity_01_11580"


def read_release(json_file: Path, split: str) -> list[Annotated]:
    """Return the images of a JSON of the release.

    Raises:
        InputError: it cannot be read.
    """
    content = read_coco_json(json_file, "panoptic")
    with report_wrong_format(json_file, "panoptic"):
        images = []
        for annotation in content["annotations"]:
            name = PurePosixPath(annotation["file_name"])
            image = name if len(name.parts) > 1 else IMAGES / name
            # Up to the first dot, as the authors' code reads them.
            png = f"panoptic_maps_{split}/{name.name.split('.')[0]}.png"
            images.append(Annotated(annotation["image_id"], str(image), png, annotation["segments_info"]))
    return images


def prepare(arguments: argparse.Namespace) -> bool:
    """Write the JSONs; return whether both splits are there."""
    dataset = read_dataset_file("entityseg_panoptic")
    remedy = "unpack the panoptic annotations there"
    root = find_root("entityseg_panoptic", arguments.root, FOLDER, remedy)
    complete = True
    for split in () if arguments.check else ("train", "val"):
        source = root / FOLDER / f"entityv2_01_panoptic_{split}.json"
        target = root / FOLDER / f"entityseg_panoptic_{split}.json"
        if target.is_file():
            print(f"{split}: {target} is there")
        elif not source.is_file():
            print(f"{split}: no {source}", file=sys.stderr)
            complete = False
        else:
            categories = panoptic_categories(dataset)
            images = read_release(source, split)
            complete &= write_json(target, images, root / FOLDER, categories, arguments.workers, split)
    return check_splits(at_root(dataset, root))[1] and complete
