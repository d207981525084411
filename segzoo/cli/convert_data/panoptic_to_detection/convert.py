"""Find panoptic labels, convert them, and write the JSONs."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from segzoo.cli.dataset_option import check_splits, splits_of
from segzoo.cli.parallel import map_files
from segzoo.data import DatasetFile, label_reader
from segzoo.data.checks import check_different
from segzoo.data.coco_json import read_coco_json, read_images, report_wrong_format
from segzoo.data.dataset_file import is_dataset_file
from segzoo.data.file_names import find_named_files
from segzoo.data.layouts import find_layout
from segzoo.data.register import check_category, check_segment, refuse_annotation
from segzoo.data.templates import fill
from segzoo.utils.errors import InputError
from segzoo.utils.files import atomic_path
from segzoo.utils.json_values import Ids, shown
from segzoo.utils.paths import is_same_file
from segzoo.utils.text import did_you_mean

from .annotations import Converter, Job

# Names of the built-in datasets, as Panoptic SegFormer's script calls them.
DATASETS = {
    "coco": "coco_panoptic",
    "cityscapes": "cityscapes_panoptic",
    "ade20k": "ade20k_panoptic",
    "mapillary": "mapillary_vistas_panoptic",
}


class Source(NamedTuple):
    """Panoptic labels to convert: their name in messages, JSON, folder of PNGs, and the file to write."""

    name: str
    json_file: Path
    masks: Path
    output: Path


class BrokenImagesError(InputError):
    """Images of a split could not be converted."""


def convert(arguments: argparse.Namespace) -> int:
    """Convert all labels that the command line names; return the exit status."""
    if arguments.things_only and arguments.sub_stuff:
        print("--sub-stuff has no effect with --things-only, which leaves stuff out")
    if arguments.json is not None:
        masks = arguments.masks or arguments.json.with_suffix("")
        source = _source(arguments, arguments.json.stem, arguments.json, masks)
        if source.output.exists() and not arguments.overwrite:
            raise InputError(f"{source.output}: exists; give --overwrite, or another --output")
        try:
            convert_source(arguments, source)
        except BrokenImagesError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0
    dataset, splits = find_splits(arguments)
    errors: list[InputError] = []
    for source in _sources(arguments, dataset, splits, errors):
        try:
            if source.output.exists() and not arguments.overwrite:
                print(f"{source.name}: {source.output} is there; --overwrite converts again")
            else:
                convert_source(arguments, source)
        except InputError as error:
            _report(error, errors)
    nothing_done = len(errors) == len(splits) and not any(
        isinstance(one, BrokenImagesError) for one in errors
    )
    return 2 if nothing_done else min(len(errors), 1)


def _sources(
    arguments: argparse.Namespace, dataset: DatasetFile, splits: Sequence[str], errors: list[InputError]
) -> list[Source]:
    """Return the sources of the splits that are there; errors of the others are printed and added.

    Raises:
        InputError: two splits would be written to one file.
    """
    found: dict[Path, Source] = {}
    for split in splits:
        try:
            source = _source(arguments, split, *panoptic_files(dataset, split))
        except InputError as error:
            _report(error, errors)
            continue
        other = found.setdefault(source.output, source)
        if other is not source:
            raise InputError(
                f"{split}: would be written to {source.output}, as {other.name}; choose one with --split, or "
                "leave --output out"
            )
    return list(found.values())


def _report(error: InputError, errors: list[InputError]) -> None:
    print(f"error: {error}", file=sys.stderr)
    errors.append(error)


def find_splits(arguments: argparse.Namespace) -> tuple[DatasetFile, list[str]]:
    """Return the dataset, and its splits to convert.

    Raises:
        InputError: no such dataset or split, or it has no panoptic labels.
    """
    names = _named_splits(arguments.dataset)
    dataset = label_reader(names[0]).dataset
    check_splits(arguments.split, names, dataset.path.name)
    if dataset.layouts[0].panoptic is None:
        panoptic = f"{dataset.path.stem}_panoptic"
        remedy = f"give {panoptic}" if is_dataset_file(panoptic) else f"known: {', '.join(DATASETS)}"
        raise InputError(f"{dataset.path.name}: has no panoptic labels; {remedy}")
    labeled = [split for split in names if split not in dataset.without_labels]
    for split in arguments.split:
        if split not in labeled:
            raise InputError(f"--split {split}: has images only; its labels are not published")
    splits = list(dict.fromkeys(arguments.split or labeled))
    if not splits:
        raise InputError(f"{dataset.path.name}: none of its splits has labels; see its key without_labels")
    return dataset, splits


def _named_splits(name: str) -> list[str]:
    try:
        return splits_of(DATASETS.get(name, name))
    except InputError:
        close = did_you_mean(name, DATASETS)
        if close and not Path(name).exists():
            raise InputError(f"there is no dataset {name}{close}") from None
        raise


def panoptic_files(dataset: DatasetFile, split: str) -> tuple[Path, Path]:
    """Return the panoptic JSON and the folder of PNGs of a split, whether or not its images are there.

    Raises:
        InputError: no layout of the dataset has both.
    """
    layouts = tuple(replace(layout, images=".", labels=None) for layout in dataset.layouts)
    found = find_layout(replace(dataset, layouts=layouts), split)
    layout, fields = dataset.layouts[found.index], dataset.splits[split]
    json_file, masks = (fill(place or "", fields) for place in (layout.annotations, layout.panoptic))
    return found.root / json_file, found.root / masks


def _source(arguments: argparse.Namespace, name: str, json_file: Path, masks: Path) -> Source:
    """Return the source with the file to write.

    Raises:
        InputError: this is the panoptic JSON.
    """
    suffix = "_things_only" if arguments.things_only else "_sub_stuff" if arguments.sub_stuff else ""
    default = f"{json_file.stem}_detection_format{suffix}.json"
    output = arguments.output or json_file.parent
    if output.suffix != ".json" or output.is_dir():
        output = output / default
    if is_same_file(output, json_file):
        raise InputError(f"--output {output}: is the panoptic JSON itself; choose another name")
    return Source(name, json_file, masks, output)


def convert_source(arguments: argparse.Namespace, source: Source) -> None:
    """Convert the labels of a JSON, and write the result.

    Raises:
        InputError: the JSON is wrong, or a PNG is; the latter were printed. Nothing is written.
    """
    content = read_coco_json(source.json_file, "panoptic")
    with report_wrong_format(source.json_file, "panoptic"):
        things = read_things(content, str(source.json_file))
        jobs = make_jobs(content, source)
    converter = Converter(things, arguments.things_only, arguments.sub_stuff)
    categories = [
        {key: value for key, value in one.items() if key not in ("isthing", "color")}
        for one in content["categories"]
        if not arguments.things_only or one["id"] in things
    ]
    head = {**content, "categories": categories}
    head.pop("annotations")
    number, disagreeing, empty, problems = 0, 0, 0, 0
    with atomic_path(source.output) as file, file.open("w", encoding="utf-8") as stream:
        # Annotations are written as they come: those of a large dataset fill gigabytes.
        stream.write(f'{json.dumps(head)[:-1]}, "annotations": [')
        for one in map_files(converter, jobs, arguments.workers, source.name, least=8):
            if one.problem:
                print(one.problem, file=sys.stderr)
                problems += 1
            for text in one.annotations:
                separator = ", " if number else ""
                number += 1
                stream.write(f'{separator}{{"id": {number}, {text}')
            disagreeing += one.disagreeing
            empty += one.empty
        stream.write("]}\n")
        if problems:
            raise BrokenImagesError(
                f"{source.name}: {problems} of {len(jobs)} images are wrong, see above; repair them"
            )
    print(f"{source.name}: {len(jobs)} images, {number} annotations in {source.output}")
    if empty:
        print(f"  {empty} segments of {source.json_file} have no pixel in their PNG; their masks are empty")
    if disagreeing:
        print(
            f"  {disagreeing} segments have a bbox or area in {source.json_file} that is not that of their "
            "pixels; it was kept"
        )


def read_things(content: Mapping[str, Any], json_file: str) -> frozenset[int]:
    """Return the ids of the categories that are things.

    Raises:
        InputError: a category is wrong.
    """
    for number, category in enumerate(content["categories"], 1):
        check_category(category, number, json_file, needs_isthing=True)
    ids = [category["id"] for category in content["categories"]]
    check_different(ids, json_file, "categories have the id")
    return frozenset(category["id"] for category in content["categories"] if category["isthing"])


def make_jobs(content: Mapping[str, Any], source: Source) -> list[Job]:
    """Return a job for each annotated image, in the order of the JSON.

    Raises:
        InputError: an annotation is wrong, or its PNG does not exist.
    """
    json_file = str(source.json_file)
    images = read_images(content, json_file)
    image_ids, index_of = Ids(images), {one["id"]: 0 for one in content["categories"]}
    categories, names, jobs = Ids(index_of), [], []
    for number, annotation in enumerate(content["annotations"], 1):
        name, segments = annotation.get("file_name"), annotation.get("segments_info")
        if not (isinstance(name, str) and isinstance(segments, list) and "image_id" in annotation):
            refuse_annotation(annotation, number, json_file)
        record = images.get(image_ids.find(annotation["image_id"]))
        if record is None:
            raise InputError(
                f"{json_file}: annotation {name} is of image {shown(annotation['image_id'])}, which is not "
                "in images; the file must list both"
            )
        for segment in segments:
            segment["category_id"] = check_segment(segment, index_of, categories, f"of {name}", json_file)
        names.append(str(PurePosixPath(name).with_suffix(".png")))
        size = (record["height"], record["width"]) if {"height", "width"} <= record.keys() else None
        jobs.append(Job(record["image_id"], "", size, segments))
    check_different((job.image_id for job in jobs), json_file, "annotations are of image")
    check_different(names, json_file, "annotations have the PNG")
    if names and not source.masks.is_dir():
        raise InputError(f"{source.masks}: there is no such folder of panoptic PNGs; name it with --masks")
    remedy = "add the PNGs, or name their folder with --json and --masks"
    files = find_named_files(names, str(source.masks), source.name, "panoptic PNGs", remedy)
    return [job._replace(png=file) for job, file in zip(jobs, files, strict=True)]
