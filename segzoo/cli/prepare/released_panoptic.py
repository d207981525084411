"""Write a panoptic JSON that names the files of a release and agrees with its PNGs.

The JSONs of some releases name neither the images nor the PNGs as they are stored, lack areas and boxes, or
list segments without a pixel.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from segzoo.cli.panoptic_files import measure_segments
from segzoo.cli.parallel import map_files
from segzoo.evaluation.prediction_io import load_ids
from segzoo.utils.errors import InputError
from segzoo.utils.json_values import Ids, as_integer, read_flag, shown
from segzoo.utils.text import some

from .common import atomic_path


class Annotated(NamedTuple):
    """An annotated image of a release.

    Attributes:
        image_id: its id in the JSON to write.
        image: the file, relative to the folder of images.
        png: its panoptic PNG, relative to the folder of PNGs.
        segments: the release's entries, each with `id`, `category_id` and possibly `iscrowd`.
    """

    image_id: int | str
    image: str
    png: str
    segments: Sequence[Mapping[str, Any]]


class Described(NamedTuple):
    """The entries of an image under `images` and `annotations`, and its number of segments without pixels."""

    image: dict[str, Any]
    annotation: dict[str, Any]
    num_empty: int


def describe(annotated: Annotated, png_root: Path, category_ids: Sequence[int]) -> Described | str:
    """Return the entries of an image, with areas and boxes of the PNG, or why there are none.

    Args:
        annotated: the image.
        png_root: folder that `png` is relative to.
        category_ids: the categories that segments may have.
    """
    try:
        return _describe(annotated, png_root / annotated.png, Ids(category_ids))
    except InputError as error:
        return str(error)


def _describe(annotated: Annotated, png: Path, categories: Ids) -> Described:
    if not png.is_file():
        raise InputError(f"{png}: does not exist; unpack the panoptic PNGs")
    listed = isinstance(annotated.segments, list)
    if not listed or not all(isinstance(one, dict) for one in annotated.segments):
        raise InputError(
            f"{png}: its segments_info in the JSON is {shown(annotated.segments)}, expected a list of "
            "segments; download the JSON again"
        )
    ids = load_ids(png)
    measured = measure_segments(ids)
    segments, num_empty = [], 0
    for one in annotated.segments:
        segment_id, category = as_integer(one.get("id")), categories.find(one.get("category_id"))
        if segment_id is None or category is None:
            key = "id" if segment_id is None else "category_id"
            raise InputError(
                f"{png}: a segment of the JSON has the {key} {shown(one.get(key))}; download it again"
            )
        if segment_id not in measured:
            num_empty += 1
            continue
        crowd = read_flag(one.get("iscrowd"), "iscrowd", f"{png}: segment {segment_id}")
        segments.append(
            {"id": segment_id, "category_id": category, **measured.pop(segment_id), "iscrowd": crowd}
        )
    if measured:
        raise InputError(
            f"{png}: its segments {some(map(str, measured))} are not in the JSON; download both again"
        )
    height, width = ids.shape
    entry = {"id": annotated.image_id, "width": width, "height": height, "file_name": annotated.image}
    annotation = {"image_id": annotated.image_id, "file_name": annotated.png, "segments_info": segments}
    return Described(entry, annotation, num_empty)


def write_json(
    target: Path,
    images: Sequence[Annotated],
    png_root: Path,
    categories: Sequence[Mapping[str, Any]],
    workers: int,
    title: str,
) -> bool:
    """Write the JSON of a split; return whether all its PNGs can be read and agree with the release."""
    read = partial(describe, png_root=png_root, category_ids=[one["id"] for one in categories])
    found = list(map_files(read, images, workers, title, unit="file", chunk=16))
    problems = [one for one in found if isinstance(one, str)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(f"{title}: not written; repair these {len(problems)} files", file=sys.stderr)
        return False
    described = [one for one in found if isinstance(one, Described)]
    document = {
        "images": [one.image for one in described],
        "annotations": [one.annotation for one in described],
        "categories": list(categories),
    }
    with atomic_path(target) as file:
        file.write_text(json.dumps(document), encoding="utf-8")
    segments = sum(len(one.annotation["segments_info"]) for one in described)
    empty = sum(one.num_empty for one in described)
    left_out = f"; left out: {empty} segments without pixels" if empty else ""
    print(f"{title}: {segments} segments of {len(described)} images in {target}{left_out}")
    return True
