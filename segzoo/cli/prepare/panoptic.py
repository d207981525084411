"""Writing panoptic labels: first a folder of PNGs, then the JSON, which is derived from the PNGs.

A segment id in these PNGs encodes the category and whether the segment is a crowd. So an interrupted
preparation continues with the files that exist, and the JSON describes the PNGs, not their sources.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from segzoo.cli.panoptic_files import measure_segments
from segzoo.cli.parallel import map_files
from segzoo.data.dataset_file import DatasetFile
from segzoo.data.register import load_split
from segzoo.evaluation.prediction_io import load_ids
from segzoo.utils.errors import InputError

from .common import Convert, at_root, atomic_path, fill_folder


class Image(NamedTuple):
    """An image of a split.

    Attributes:
        image_id: its `id` in the JSON.
        file_name: its `file_name` in the JSON.
        png: name of its panoptic PNG.
        source: what `convert` makes the PNG from.
    """

    image_id: str
    file_name: str
    png: str
    source: Any


class PanopticSplit(NamedTuple):
    """A split to be written.

    Attributes:
        name: its name in messages.
        folder: folder of the PNGs; the JSON is `<folder>.json`.
        images: its images.
        source: the pattern by which they were found, for messages.
    """

    name: str
    folder: Path
    images: Sequence[Image]
    source: str


# Maps a segment id to the category id and whether the segment is a crowd.
Decode = Callable[[int], tuple[int, bool]]


def write_splits(
    splits: Iterable[PanopticSplit],
    convert: Convert,
    decode: Decode,
    categories: Sequence[Mapping[str, Any]],
    workers: int,
) -> bool:
    """Write the panoptic labels of splits; return whether all are complete, see `write_split`."""
    complete = True
    for split in splits:
        if not split.images:
            print(f"{split.name}: no {split.source}", file=sys.stderr)
            complete = False
            continue
        complete &= write_split(
            split.folder, split.images, convert, decode, categories, workers, title=split.name
        )
    return complete


def write_split(
    folder: Path,
    images: Sequence[Image],
    convert: Convert,
    decode: Decode,
    categories: Sequence[Mapping[str, Any]],
    workers: int,
    title: str,
) -> bool:
    """Write the panoptic PNGs of a split into `folder`, and `<folder>.json` beside it.

    Returns:
        Whether they are complete; if not, the printed messages say what to repair.
    """
    json_file = folder.with_name(f"{folder.name}.json")
    had_json = json_file.is_file() and folder.is_dir()
    jobs = {image.png: image.source for image in images}
    had_all = had_json and jobs.keys() <= {file.name for file in folder.iterdir()}
    if not fill_folder(folder, jobs, convert, workers, title):
        return False
    if had_all:
        return True
    read = partial(describe, folder=folder, decode=decode)
    described = list(map_files(read, images, workers, f"{title}, JSON", unit="file", chunk=16))
    document = {
        "images": [image for image, _ in described],
        "annotations": [annotation for _, annotation in described],
        "categories": list(categories),
    }
    with atomic_path(json_file) as file:
        file.write_text(json.dumps(document), encoding="utf-8")
    segments = sum(len(annotation["segments_info"]) for _, annotation in described)
    print(f"{title}: {segments} segments in {json_file}")
    return True


def describe(image: Image, folder: Path, decode: Decode) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the entries of an image under `images` and `annotations`."""
    ids = load_ids(folder / image.png)
    height, width = ids.shape
    segments = []
    for segment_id, measured in measure_segments(ids).items():
        category, is_crowd = decode(segment_id)
        segments.append({"id": segment_id, "category_id": category, **measured, "iscrowd": int(is_crowd)})
    entry = {"id": image.image_id, "width": width, "height": height, "file_name": image.file_name}
    annotation = {"image_id": image.image_id, "file_name": image.png, "segments_info": segments}
    return entry, annotation


def count_splits(dataset: DatasetFile, root: Path) -> bool:
    """Print the number of images of each split; return whether all have the published number."""
    complete = True
    dataset = at_root(dataset, root)
    for split in dataset.splits:
        try:
            count = len(load_split(dataset, split))
        except InputError as error:
            print(error, file=sys.stderr)
            complete = False
            continue
        published = dataset.image_counts[split]
        print(f"{split}: {count} images, published: {published}")
        complete &= count == published
    return complete
