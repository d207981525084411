#!/usr/bin/env python
"""Makes panoptic labels from semantic labels and instances, with a dataset YAML to train on them.

    python tools/make_panoptic.py roads.yaml --instances instances_{split}.json
    python tools/make_panoptic.py roads.yaml --instance-masks instances/{split}/{stem}.png
    python tools/make_panoptic.py roads.yaml --instance-masks objects/{stem}_*.png

roads.yaml describes the semantic labels, as datasets/README.md says; its thing classes have isthing: true.
The instances come from a COCO JSON (polygons or run lengths, iscrowd), from one PNG for an image whose values
number the instances (0: none), or from one PNG for each instance (0: not of it). Paths are relative to the
dataset's root, else to the current folder; {split} and {stem} stand for what they do in roads.yaml. A JSON
that roads.yaml itself names under instances is read by the keys there, as in training.

Writes, beside the dataset or into --output:
    panoptic/roads_train/*.png           segment ids as R + 256 G + 65536 B, 0 is void
    panoptic/roads_train.json            COCO's panoptic format
    panoptic/roads_train.report.json     how labels and instances contradict each other, image by image
    roads_panoptic.yaml                  with the splits roads_train_panoptic, ... for DATASETS.FILES

The rules:
  - An instance counts wherever its mask is, whatever the semantic label there. Its class is that of the JSON;
    PNGs do not say, and the thing class that most of its pixels have is taken.
  - Where instances overlap, the smaller one is on top; with --order file, the one that comes first.
  - Crowds lie below instances. All crowds of a class in an image are one segment.
  - Pixels of a thing class without an instance are a crowd of this class (--uncovered crowd): still of their
    class to semantic training, neither learned nor scored as an instance; --uncovered void makes them void.
  - All other pixels are what the semantic label says: one segment for each stuff class.
Overlaps, pixels without an instance, and instances on another class are counted, and the worst images named.

Starting it again gives the same files; those that do not change are not touched. The JSON of a split is
written last, and only if all of its images could be converted. The exit status is 0 if so, 1 if images are
wrong or a split is not there, 2 if nothing can be done.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
from command_line import CommandLine, end, explained, name_or_path, path_value
from dataset_argument import given_splits, splits_of
from detectron2.data import DatasetCatalog, MetadataCatalog
from panoptic_conversion.conversion import Converter, convert_all, make_jobs, report
from panoptic_conversion.instances import InstancesOfSplit, find_coco, find_pngs, of_records
from panoptic_conversion.output import folder_in_yaml, other_splits, save_json, save_yaml
from panoptic_conversion.painting import Rules

from segzoo.data import DatasetFile, label_reader
from segzoo.data.panoptic_files import panoptic_categories
from segzoo.data.templates import fill, match
from segzoo.utils.errors import InputError
from segzoo.utils.paths import is_same_file


class BrokenImagesError(InputError):
    """Images of a split could not be converted."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_dataset()
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--instances", type=name_or_path, metavar="JSON", help="COCO instances; may have {split}"
    )
    source.add_argument(
        "--instance-masks",
        type=name_or_path,
        metavar="PNG",
        help="with {stem}; with a * in the file name, one PNG for each instance",
    )
    parser.add_argument("--splits", nargs="+", metavar="NAME", help="only these of its splits")
    parser.add_argument(
        "--output", type=path_value, metavar="DIR", help="folder to write to (default: the dataset's root)"
    )
    parser.add_argument("--name", help="of the YAML to write (default: that of the dataset and _panoptic)")
    parser.add_argument(
        "--order", choices=("area", "file"), default="area", help="which instance is on top (area)"
    )
    parser.add_argument(
        "--uncovered",
        choices=("crowd", "void"),
        default="crowd",
        help="what pixels of thing classes without an instance become (crowd)",
    )
    parser.add_argument(
        "--rename",
        nargs="+",
        default=[],
        metavar="CATEGORY=CLASS",
        help="categories of the JSON that have another name than the class; =void leaves one out",
    )
    parser.add_argument(
        "--no-instance",
        nargs="+",
        type=int,
        default=[0],
        metavar="VALUE",
        help="values of the PNGs that are no instance (0); VOC has 0 255",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; count and report")
    parser.add_workers()
    parser.add_overrides()
    parsed = parser.parse_args(arguments)
    wrong = [one for one in parsed.rename if "=" not in one]
    if wrong:
        parser.error(f"--rename {wrong[0]}: expected CATEGORY=CLASS")
    return parsed


def find_splits(args: argparse.Namespace) -> tuple[DatasetFile, list[str]]:
    """The dataset, and the splits to convert.

    Raises:
        InputError: no such dataset or split, or nothing to do with it.
    """
    names = splits_of(args.dataset) if args.dataset else given_splits(args)
    if not names:
        raise InputError("DATASETS: the configuration has no dataset; give a dataset YAML")
    dataset = label_reader(names[0]).dataset
    if dataset.layouts[0].panoptic is not None:
        raise InputError(f"{dataset.path.name}: has panoptic labels; give a YAML of semantic labels")
    if dataset.layouts[0].instances is not None and dataset.background is None:
        print(
            f"{dataset.path.name}: what no instance covers becomes void; to make it a class, add one to "
            "classes and name it: background: NAME"
        )
    if not any(one.isthing for one in dataset.classes):
        raise InputError(
            f"{dataset.path.name}: no class has instances; write those that do as "
            "{name: ..., isthing: true}"
        )
    for split in args.splits or ():
        if split not in names:
            raise InputError(f"--splits {split}: {dataset.path.name} has {', '.join(names)}")
    labelled = [split for split in names if split not in dataset.without_labels]
    splits = list(dict.fromkeys(args.splits or labelled))
    if not splits:
        raise InputError(f"{dataset.path.name}: none of its splits has labels; see its key without_labels")
    return dataset, splits


def find_instances(
    args: argparse.Namespace, dataset: DatasetFile, split: str, records: Sequence[Mapping[str, Any]]
) -> InstancesOfSplit:
    """Where the instances of a split's images are described."""
    root, fields = Path(MetadataCatalog.get(split).dataset_root), dataset.splits[split]
    files = [record["file_name"] for record in records]
    if args.instances is not None:
        file = fill(args.instances, fields)
        candidates = [root / file, Path(file)]
        json_file = next((one for one in candidates if one.is_file()), None)
        if json_file is None:
            raise InputError(
                f"--instances: neither {' nor '.join(map(str, candidates))} exists; check the path"
            )
        if "annotations" in records[0] and is_same_file(json_file, MetadataCatalog.get(split).json_file):
            if args.rename:
                raise InputError(
                    f"--rename: {json_file} holds the labels of {dataset.path.name}; write label_map there"
                )
            return of_records(records, dataset)
        renamed = dict(one.rsplit("=", 1) for one in args.rename)
        return find_coco(json_file, files, dataset, renamed)
    template = args.instance_masks
    # The text of {stem}, and of other fields, in the path of each image.
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


def convert_split(args: argparse.Namespace, dataset: DatasetFile, split: str) -> tuple[Path, dict[str, str]]:
    """Converts a split; returns the folder of the output and what the YAML says about the split.

    Raises:
        InputError: it is not there, or has wrong files, which were printed.
    """
    records = DatasetCatalog.get(split)
    reader = label_reader(split)
    folder = Path(os.path.commonpath([os.path.dirname(os.path.abspath(one["file_name"])) for one in records]))
    output = Path(os.path.abspath(args.output or MetadataCatalog.get(split).dataset_root))
    if not args.check:
        other_splits(yaml_path(args, dataset, output), dataset)  # before the work: is the name free?
    instances = find_instances(args, dataset, split, records)
    jobs = make_jobs(instances, records, folder)
    converter = Converter(
        reader,
        Rules(reader.is_thing, reader.ignore_label, args.order, args.uncovered),
        None if args.check else output / "panoptic" / split,
        pngs=args.instances is None,
        is_binary="*" in (args.instance_masks or ""),
        no_instance=tuple(args.no_instance),
    )
    json_file = output / "panoptic" / f"{split}.json"
    # While PNGs change, no JSON may speak of them; it comes back untouched if nothing has changed.
    previous = json_file.with_name(f".{json_file.name}.previous")
    if json_file.is_file() and not args.check:
        os.replace(json_file, previous)
    done = list(convert_all(jobs, converter, args.workers, split))
    problems = [one.problem for one in done if one.problem]
    for problem in problems:
        print(problem, file=sys.stderr)
    report(split, jobs, done, instances)
    if problems:
        raise BrokenImagesError(
            f"{split}: {len(problems)} of {len(jobs)} images are wrong, see above; repair them"
        )
    if not args.check:
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
        facts = {
            "order": args.order,
            "uncovered": args.uncovered,
            "total": dict(sum((one.counts for one in done), Counter())),
            "passed_over": dict(instances.passed_over),
            "images": {name: count for name, count in counts.items() if count},
        }
        save_json(json_file.with_suffix(".report.json"), facts)
        if previous.is_file():
            os.replace(previous, json_file)
        save_json(json_file, document)
    return output, {"images": folder_in_yaml(folder, output), "name": split}


def yaml_path(args: argparse.Namespace, dataset: DatasetFile, output: Path) -> Path:
    return output / f"{args.name or f'{dataset.name}_panoptic'}.yaml"


def convert(args: argparse.Namespace) -> int:
    """Converts the splits and writes the YAML; returns the exit status."""
    dataset, splits = find_splits(args)
    errors: list[InputError] = []
    for split in splits:
        try:
            output, fields = convert_split(args, dataset, split)
        except InputError as error:
            print(error, file=sys.stderr)
            errors.append(error)
            continue
        if args.check:
            continue
        # After each split, so that what is done can be used.
        file = yaml_path(args, dataset, output)
        written = {**other_splits(file, dataset), f"{split}_panoptic": fields}
        save_yaml(file, dataset, written, f"{dataset.name}, panoptic")
        print(f"  written: {file}, with {split}_panoptic")
    nothing_done = len(errors) == len(splits) and not any(
        isinstance(one, BrokenImagesError) for one in errors
    )
    return 2 if nothing_done else min(len(errors), 1)


@explained
def main(arguments: Sequence[str] | None = None) -> int:
    return convert(parse_arguments(arguments))


if __name__ == "__main__":
    end(main())
