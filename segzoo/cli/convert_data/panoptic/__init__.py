"""Make panoptic labels from semantic labels and instances, with a dataset YAML to train on them.

    segzoo convert-data panoptic roads.yaml --instances instances_{split}.json
    segzoo convert-data panoptic roads.yaml --instance-masks instances/{split}/{stem}.png
    segzoo convert-data panoptic roads.yaml --instance-masks objects/{stem}_*.png

roads.yaml describes the semantic labels, as `segzoo check-data --keys` says; its thing classes have
isthing: true. The instances come from a COCO JSON (polygons or RLE, iscrowd), from one PNG for each image
whose values number the instances (0: none), or from one PNG for each instance (0: outside). Paths are
relative to the dataset's root, else to the current folder; {split} and {stem} mean the same as in roads.yaml.
A JSON that roads.yaml itself names under instances is read with the keys there, as in training.

Writes, beside the dataset or into --output:
    panoptic/roads_train/*.png           segment ids as R + 256 G + 65536 B, 0 is void
    panoptic/roads_train.json            COCO's panoptic format
    panoptic/roads_train.report.json     how labels and instances contradict each other, image by image
    roads_panoptic.yaml                  with the splits roads_train_panoptic, ... for DATASETS.FILES

The rules:
  - An instance is where its mask is, whatever the semantic label there. Its class is that in the JSON; with
    PNGs, which have none, it is the thing class of most of its pixels.
  - Where instances overlap, the smaller one is on top; with --order file, the one that comes first.
  - Crowds lie below instances. All crowds of a class in an image are one segment.
  - Pixels of a thing class without an instance are a crowd of this class (--uncovered crowd): semantic
    training still uses their class, but they are neither trained on nor scored as an instance. With
    --uncovered void they are void.
  - All other pixels keep their semantic label: one segment for each stuff class.
Overlaps, pixels without an instance, and instances on another class are counted, and the worst images listed.

Running it again gives the same files; unchanged files are not rewritten. The JSON of a split is written last,
and only if all of its images could be converted. The exit status is 0 if so, 1 if images are wrong or a split
is missing, 2 if nothing can be done.
"""

import argparse

from segzoo.cli.command import command
from segzoo.cli.parser import CommandLine, name_or_path, path_value
from segzoo.utils.errors import InputError


def build_parser() -> CommandLine:
    """Return the command line of `segzoo convert-data panoptic`."""
    parser = CommandLine("convert-data panoptic", description=__doc__)
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
    parser.add_split("only these splits of the dataset", "--splits")
    parser.add_argument(
        "--output", type=path_value, metavar="DIR", help="folder to write to (default: the dataset's root)"
    )
    parser.add_argument("--name", help="name of the YAML to write (default: DATASET_panoptic)")
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
        help="classes of JSON categories with another name; =void drops a category",
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
    parser.add_check(_check_names)
    return parser


def _check_names(arguments: argparse.Namespace) -> None:
    wrong = [one for one in arguments.rename if "=" not in one]
    if wrong:
        raise InputError(f"--rename {wrong[0]}: expected CATEGORY=CLASS")


def run(arguments: argparse.Namespace) -> int:
    """Convert; return the exit status."""
    from .convert import convert

    return convert(arguments)


main = command(build_parser, run)
