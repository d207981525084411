"""Make the JSONs of COCONut: COCO's 133 panoptic classes.

    segzoo prepare coconut
    segzoo prepare coconut --check                    # only count

Reads the JSONs and PNGs that are in coconut/, finds the images in coco/ and coconut/image/, and writes
coconut/panoptic_{s,b,relabeled_val,val}.json, with areas and boxes measured in the PNGs and without the
segments that have no pixel. COCONut-val consists of the relabeled val2017 and of images of Objects365, as
in the authors' evaluation. The dataset is for non-commercial use only.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segzoo.cli.panoptic_files import panoptic_categories
from segzoo.data import read_dataset_file
from segzoo.data.coco_json import read_coco_json, report_wrong_format
from segzoo.utils.errors import InputError
from segzoo.utils.text import some

from .common import at_root, check_splits, find_root
from .released_panoptic import Annotated, write_json

FOLDER = "coconut"
# {value of {split}: the released parts}.
SPLITS = {
    "s": ("coconut_s",),
    "b": ("coconut_b",),
    "relabeled_val": ("relabeled_coco_val",),
    "val": ("relabeled_coco_val", "coconut_val"),
}
# {part: folders of its images}.
IMAGES = {
    "coconut_s": ("coco/train2017",),
    "coconut_b": ("coco/train2017", "coco/unlabeled2017"),
    "relabeled_coco_val": ("coco/val2017",),
    "coconut_val": ("coconut/image", "coconut/coconut_val_images"),
}


def json_files(folder: Path, part: str) -> Iterable[Path]:
    """Yield the places where the JSON of a part may be, as unpacked or moved."""
    for inner in ("", "annotations", "annotations/annotations"):
        yield folder / inner / f"{part}.json"


def png_folders(folder: Path, part: str) -> Iterable[Path]:
    """Yield the folders where the PNGs of a part may be; some archives have a folder of the same name."""
    for name in (f"{part}/{part}", part, *(["panoptic_o365val_v3"] if part == "coconut_val" else [])):
        yield folder / name


def stem_of(annotation: Mapping[str, Any]) -> str:
    """Return the name that the image and the PNG of an annotation share, without suffix.

    Images of Objects365 have a number of their own in `file_name`.
    """
    name = annotation.get("object365_file_name") or annotation["file_name"]
    return Path(str(name)).name.removesuffix(".jpg").removesuffix(".png")


def read_part(root: Path, part: str) -> list[Annotated]:
    """Return the images of a part.

    Raises:
        InputError: files are missing, or the JSON cannot be read.
    """
    folder = root / FOLDER
    json_file = next((file for file in json_files(folder, part) if file.is_file()), None)
    if json_file is None:
        raise InputError(f"no {part}.json in {folder}; download it from COCONut's page")
    pngs = next((one for one in png_folders(folder, part) if one.is_dir()), None)
    if pngs is None:
        raise InputError(f"no folder {folder / part}; unpack the panoptic PNGs there")
    files = {
        file.stem: f"{place}/{file.name}"
        for place in IMAGES[part]
        if (root / place).is_dir()
        for file in (root / place).glob("*.jpg")
    }
    content = read_coco_json(json_file, "panoptic")
    images, missing = [], []
    with report_wrong_format(json_file, "panoptic"):
        for annotation in content["annotations"]:
            stem = stem_of(annotation)
            if stem not in files:
                missing.append(f"{stem}.jpg")
                continue
            png = (pngs / f"{stem}.png").relative_to(root).as_posix()
            images.append(Annotated(annotation["image_id"], files[stem], png, annotation["segments_info"]))
    if missing:
        places = " or ".join(str(root / place) for place in IMAGES[part])
        raise InputError(
            f"{json_file}: {len(missing)} of {len(content['annotations'])} images are not in {places}, first "
            f"{some(missing, 1)}; add them"
        )
    return images


def merged(parts: Sequence[Sequence[Annotated]]) -> list[Annotated]:
    """Return the images of all parts; with several parts, their ids are the stems of the files."""
    if len(parts) == 1:
        return list(parts[0])
    return [one._replace(image_id=Path(one.image).stem) for part in parts for one in part]


def prepare(arguments: argparse.Namespace) -> bool:
    """Write the JSONs; return whether all splits have the published number of images."""
    dataset = read_dataset_file("coconut")
    root = find_root("coconut", arguments.root, FOLDER, "put COCONut's JSONs and PNGs there")
    complete = True
    for split, parts in {} if arguments.check else SPLITS.items():
        target = root / FOLDER / f"panoptic_{split}.json"
        if target.is_file():
            print(f"{split}: {target} is there")
            continue
        try:
            images = merged([read_part(root, part) for part in parts])
        except InputError as error:
            print(f"{split}: {error}", file=sys.stderr)
            complete = False
            continue
        categories = panoptic_categories(dataset)
        complete &= write_json(target, images, root, categories, arguments.workers, split)
    return check_splits(at_root(dataset, root))[1] and complete
