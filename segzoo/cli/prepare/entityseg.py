"""Make the entity labels of EntitySeg, at full and at low resolution.

    segzoo prepare entityseg
    segzoo prepare entityseg --check                  # only count

Reads annotations/entity_segmentation/entityv2_010203_entity_{train,val}{,_lr}.json, those that are there, and
writes annotations/entities_{train,val}{,_lr}/ (panoptic PNGs, named by the ids of the images) and the JSONs
beside them. The labels have one class. Where masks overlap, the smaller one is on top. Can be interrupted and
started again; until a split is complete, its folder ends in .partial. The annotations are for non-commercial
research only (Adobe Research License).
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_tools

from segzoo.cli.panoptic_files import panoptic_categories
from segzoo.data import read_dataset_file
from segzoo.data.coco_instances import paint
from segzoo.data.coco_json import read_coco_json, read_images, report_wrong_format
from segzoo.evaluation.prediction_io import save_ids
from segzoo.utils.coco_masks import mask_rle
from segzoo.utils.errors import InputError
from segzoo.utils.json_values import Ids, read_flag, shown

from .common import at_root, check_splits, find_root
from .panoptic import Image, PanopticSplit, write_splits

FOLDER = "annotations/entity_segmentation"
SPLITS = ("train", "val", "train_lr", "val_lr")
CATEGORY = 1  # id of the only class
# An id is the position of the entity in the JSON, from 1, plus this for a crowd.
CROWD = 1 << 20


class Masks(NamedTuple):
    """The entities of an image.

    Attributes:
        name: JSON and image, for messages.
        size: (H, W) of the image.
        annotations: its annotations of the JSON.
    """

    name: str
    size: tuple[int, int]
    annotations: list[dict[str, Any]]


def convert(masks: Masks, target: Path) -> None:
    """Write the panoptic PNG of an image."""
    rles, ids = [], []
    for number, annotation in enumerate(masks.annotations, 1):
        described = f"{masks.name}: annotation {shown(annotation.get('id'))}"
        rles.append(mask_rle(annotation.get("segmentation"), masks.size, described))
        ids.append(number + CROWD * read_flag(annotation.get("iscrowd"), "iscrowd", described))
    # `paint` puts the first mask on top.
    order = np.argsort([int(mask_tools.area(rle)) for rle in rles], kind="stable")
    labels = np.zeros(masks.size, dtype=np.int32)
    paint(labels, [rles[index] for index in order], [ids[index] for index in order])
    save_ids(target, labels)


def decode(segment_id: int) -> tuple[int, bool]:
    """Return the category of an id, and whether it is a crowd."""
    return CATEGORY, segment_id >= CROWD


def read_release(json_file: Path) -> list[Image]:
    """Return the images of a JSON of the release with their entities.

    Raises:
        InputError: it cannot be read, or an image has no size.
    """
    content = read_coco_json(json_file, "instances")
    with report_wrong_format(json_file, "instances"):
        images = read_images(content, str(json_file))
        ids = Ids(images)
        of_image: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in images}
        for annotation in content["annotations"]:
            image_id = ids.find(annotation["image_id"])
            if image_id is None:
                raise InputError(
                    f"{json_file}: annotation {shown(annotation.get('id'))} is of image "
                    f"{shown(annotation['image_id'])}, which is not in images; download it again"
                )
            of_image[image_id].append(annotation)
    listed = []
    for image_id, record in images.items():
        if "height" not in record or "width" not in record:
            raise InputError(f"{json_file}: image {shown(image_id)} has no size; download it again")
        size = (record["height"], record["width"])
        masks = Masks(f"{json_file}: {record['file_name']}", size, of_image[image_id])
        listed.append(Image(image_id, record["file_name"], f"{image_id}.png", masks))
    return listed


def prepare(arguments: argparse.Namespace) -> bool:
    """Write the labels; return whether all splits are there."""
    dataset = read_dataset_file("entityseg")
    root = find_root("entityseg", arguments.root, FOLDER, "unpack the entity annotations there")
    complete = True
    for split in () if arguments.check else SPLITS:
        source = root / FOLDER / f"entityv2_010203_entity_{split}.json"
        if not source.is_file():
            print(f"{split}: no {source}", file=sys.stderr)
            complete = False
            continue
        target = PanopticSplit(
            split, root / f"annotations/entities_{split}", read_release(source), f"images in {source}"
        )
        categories = panoptic_categories(dataset)
        complete &= write_splits([target], convert, decode, categories, arguments.workers)
    return check_splits(at_root(dataset, root))[1] and complete
