"""Convert the splits of a dataset, and write the dataset YAML of the panoptic labels."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from segzoo.cli.dataset_option import check_splits, given_splits, splits_of
from segzoo.cli.panoptic_files import panoptic_categories
from segzoo.cli.parallel import map_files
from segzoo.data import DatasetFile, label_reader
from segzoo.data.templates import fill, match
from segzoo.utils.errors import InputError
from segzoo.utils.paths import is_same_file

from .conversion import Converter, make_jobs, report
from .instances import InstancesOfSplit, find_coco, find_pngs, instances_from_records
from .output import folder_in_yaml, other_splits, save_json, save_yaml
from .painting import Rules


class BrokenImagesError(InputError):
    """Images of a split could not be converted."""


def find_splits(arguments: argparse.Namespace) -> tuple[DatasetFile, list[str]]:
    """Return the dataset, and the splits to convert.

    Raises:
        InputError: no such dataset or split, or nothing to do with it.
    """
    names = splits_of(arguments.dataset) if arguments.dataset else given_splits(arguments)
    if not names:
        raise InputError("DATASETS: the configuration has no dataset; give a dataset YAML")
    dataset = label_reader(names[0]).dataset
    check_splits(arguments.split, names, dataset.path.name)
    if dataset.layouts[0].panoptic is not None:
        raise InputError(f"{dataset.path.name}: has panoptic labels; give a YAML of semantic labels")
    if dataset.layouts[0].instances is not None and dataset.background is None:
        print(
            f"{dataset.path.name}: pixels without an instance become void; to give them a class, add one to "
            "classes and name it: background: NAME"
        )
    if not any(one.isthing for one in dataset.classes):
        raise InputError(
            f"{dataset.path.name}: no class has instances; write those that do as "
            "{name: ..., isthing: true}"
        )
    labeled = [split for split in names if split not in dataset.without_labels]
    splits = list(dict.fromkeys(arguments.split or labeled))
    if not splits:
        raise InputError(f"{dataset.path.name}: none of its splits has labels; see its key without_labels")
    return dataset, splits


def find_instances(
    arguments: argparse.Namespace, dataset: DatasetFile, split: str, records: Sequence[Mapping[str, Any]]
) -> InstancesOfSplit:
    """Return the annotations or PNGs with the instances of a split's images."""
    root, fields = Path(MetadataCatalog.get(split).dataset_root), dataset.splits[split]
    files = [record["file_name"] for record in records]
    if arguments.instances is not None:
        file = fill(arguments.instances, fields)
        candidates = list({os.path.abspath(path): str(path) for path in (root / file, file)}.values())
        json_file = next((Path(one) for one in candidates if os.path.isfile(one)), None)
        if json_file is None:
            raise InputError(f"--instances: there is no file {' or '.join(candidates)}; check the path")
        if "annotations" in records[0] and is_same_file(json_file, MetadataCatalog.get(split).json_file):
            if arguments.rename:
                raise InputError(
                    f"--rename: {json_file} holds the labels of {dataset.path.name}; write label_map there"
                )
            return instances_from_records(records, dataset)
        renamed = dict(one.rsplit("=", 1) for one in arguments.rename)
        return find_coco(json_file, files, dataset, renamed)
    template = arguments.instance_masks
    # {image file: {field: its text in the path}}.
    found = dict(match(root, dataset.layouts[records[0]["layout"]].images, fields))
    patterns = {
        file: fill(template, {"stem": Path(file).stem, **fields, **found.get(file, {})}) for file in files
    }
    if len(set(patterns.values())) < len(patterns):
        raise InputError(
            f"--instance-masks {template}: is the same for several images; write {{stem}} into it"
        )
    if "{" in patterns[files[0]]:
        raise InputError(
            f"--instance-masks: {patterns[files[0]]} has an unknown field; known: stem and those of images"
        )
    return find_pngs(patterns, (str(root), ""))


def convert_split(
    arguments: argparse.Namespace, dataset: DatasetFile, split: str
) -> tuple[Path, dict[str, str]]:
    """Convert a split; return the output folder and the split's fields for the YAML.

    Raises:
        InputError: it is missing, or has wrong files, which were printed.
    """
    records = DatasetCatalog.get(split)
    reader = label_reader(split)
    folder = Path(os.path.commonpath([os.path.dirname(os.path.abspath(one["file_name"])) for one in records]))
    output = Path(os.path.abspath(arguments.output or MetadataCatalog.get(split).dataset_root))
    if not arguments.check:
        other_splits(yaml_path(arguments, dataset, output), dataset)  # raises before the work
    instances = find_instances(arguments, dataset, split, records)
    jobs = make_jobs(instances, records, folder)
    converter = Converter(
        reader,
        Rules(reader.is_thing, reader.ignore_label, arguments.order, arguments.uncovered),
        None if arguments.check else output / "panoptic" / split,
        pngs=arguments.instances is None,
        is_binary="*" in (arguments.instance_masks or ""),
        no_instance=tuple(arguments.no_instance),
    )
    json_file = output / "panoptic" / f"{split}.json"
    # While PNGs change, no JSON may describe them; it is restored untouched if nothing has changed.
    previous = json_file.with_name(f".{json_file.name}.previous")
    if json_file.is_file() and not arguments.check:
        os.replace(json_file, previous)
    # Starting a process takes longer than converting a few images.
    done = list(map_files(converter, jobs, arguments.workers, split, least=8))
    problems = [one.problem for one in done if one.problem]
    for problem in problems:
        print(problem, file=sys.stderr)
    report(split, jobs, done, instances)
    if problems:
        raise BrokenImagesError(
            f"{split}: {len(problems)} of {len(jobs)} images are wrong, see above; repair them"
        )
    if not arguments.check:
        document = {
            "info": {"description": f"{split}, panoptic, of {dataset.path.name}"},
            "images": [one.image for one in done],
            "annotations": [one.annotation for one in done],
            "categories": panoptic_categories(dataset),
        }
        counts = {
            job.file_name: {key: count for key, count in one.counts.items() if count}
            for job, one in zip(jobs, done, strict=True)
        }
        summary = {
            "order": arguments.order,
            "uncovered": arguments.uncovered,
            "total": dict(sum((one.counts for one in done), Counter())),
            "passed_over": dict(instances.ignored),
            "images": {name: count for name, count in counts.items() if count},
        }
        save_json(json_file.with_suffix(".report.json"), summary)
        if previous.is_file():
            os.replace(previous, json_file)
        save_json(json_file, document)
    return output, {"images": folder_in_yaml(folder, output), "name": split}


def yaml_path(arguments: argparse.Namespace, dataset: DatasetFile, output: Path) -> Path:
    """Return the path of the YAML to write."""
    return output / f"{arguments.name or f'{dataset.name}_panoptic'}.yaml"


def convert(arguments: argparse.Namespace) -> int:
    """Convert the splits and write the YAML; return the exit status."""
    dataset, splits = find_splits(arguments)
    errors: list[InputError] = []
    for split in splits:
        try:
            output, fields = convert_split(arguments, dataset, split)
        except InputError as error:
            if str(error) not in map(str, errors):  # where a path is the same for all splits
                print(f"error: {error}", file=sys.stderr)
            errors.append(error)
            continue
        if arguments.check:
            continue
        # After each split, so that what is done can be used.
        file = yaml_path(arguments, dataset, output)
        written = {**other_splits(file, dataset), f"{split}_panoptic": fields}
        save_yaml(file, dataset, written, f"{dataset.name}, panoptic")
        print(f"  written: {file}, with {split}_panoptic")
    nothing_done = len(errors) == len(splits) and not any(
        isinstance(one, BrokenImagesError) for one in errors
    )
    return 2 if nothing_done else min(len(errors), 1)
