"""Write panoptic labels in COCO's detection format: one annotation with an RLE mask for each segment.

    segzoo convert-data panoptic-to-detection coco        # or cityscapes, ade20k, mapillary
    segzoo convert-data panoptic-to-detection coco --split coco_2017_val_panoptic --things-only
    segzoo convert-data panoptic-to-detection street.yaml --output detection/
    segzoo convert-data panoptic-to-detection --json street.json --masks street_pngs/ --output boxes.json

Files of this kind are what Panoptic SegFormer's tools/converter.py writes, and detection code reads. segzoo
itself needs none of them: it derives instances and boxes from the panoptic files. The images are not needed.

Writes beside the panoptic JSON, or to --output:
    panoptic_val2017_detection_format.json
    panoptic_val2017_detection_format_things_only.json    with --things-only
    panoptic_val2017_detection_format_sub_stuff.json      with --sub-stuff

The rules:
  - Each entry of segments_info, in the order of the JSON and with crowds, becomes an annotation with the same
    keys, a new id, image_id and segmentation. bbox and area are those of the JSON; where they are missing,
    those of the pixels. --things-only leaves stuff out, and its categories too.
  - With --sub-stuff, each stuff segment is followed by its parts, with bbox and area of their own: connected
    regions (8 neighbors) of which small ones are united with their nearest neighbors.
  - A segment without a pixel is kept, with an empty mask; a stuff segment of that kind is an error with
    --sub-stuff. Their number is printed.
  - categories are those of the JSON without isthing and color; info, licenses and images stay as they are.

Different from tools/converter.py: ids begin at 1, since COCO's evaluation never matches an annotation 0. The
PNG of a.b.jpg is a.b.png, not a.png. Things are the isthing of the JSON itself. iscrowd, bbox and area are
added where they are missing. Regions of equal size keep their order, from top to bottom. A pixel whose id is
not listed, and a PNG of another size, are errors, as in training.

An output that exists is kept, unless --overwrite is given; it is replaced at the end, if all images could be
converted. The exit status is 0 if so, 1 if images are wrong or a split is missing, 2 if nothing can be done.
"""

import argparse

from segzoo.cli.command import command
from segzoo.cli.parser import CommandLine, name_or_path, path_value
from segzoo.utils.errors import InputError


def build_parser() -> CommandLine:
    """Return the command line of `segzoo convert-data panoptic-to-detection`."""
    parser = CommandLine("convert-data panoptic-to-detection", description=__doc__)
    parser.add_argument(
        "dataset",
        nargs="?",
        type=name_or_path,
        metavar="DATASET",
        help="coco, cityscapes, ade20k, mapillary, a dataset YAML with panoptic labels, or a split",
    )
    parser.add_data()
    parser.add_split("only these splits of the dataset")
    files = parser.add_argument_group("files, instead of a dataset")
    files.add_argument("--json", type=path_value, metavar="FILE", help="JSON in COCO's panoptic format")
    files.add_argument(
        "--masks", type=path_value, metavar="DIR", help="its PNGs (default: the folder named as the JSON)"
    )
    parser.add_argument(
        "--output",
        type=path_value,
        metavar="PATH",
        help="the .json to write, or a folder for it (default: the folder of the panoptic JSON)",
    )
    parser.add_argument("--things-only", action="store_true", help="leave stuff out")
    parser.add_argument(
        "--sub-stuff", action="store_true", help="add the separate parts of each stuff segment"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    parser.add_workers()
    parser.add_check(_check_source)
    return parser


def _check_source(arguments: argparse.Namespace) -> None:
    if arguments.dataset and arguments.data not in (None, arguments.dataset):
        raise InputError(f"--data {arguments.data} and {arguments.dataset} are two datasets; give one")
    arguments.dataset = arguments.dataset or arguments.data
    if arguments.json is None:
        if arguments.masks is not None:
            raise InputError("--masks: needs --json, the JSON that lists these PNGs")
        if arguments.dataset is None:
            raise InputError(
                "the dataset is missing; give coco, cityscapes, ade20k, mapillary, a dataset YAML, or --json"
            )
    elif arguments.dataset is not None or arguments.split:
        given = arguments.dataset or "--split"
        raise InputError(f"--json {arguments.json} and {given}: give either files or a dataset")


def run(arguments: argparse.Namespace) -> int:
    """Convert; return the exit status."""
    from .convert import convert

    return convert(arguments)


main = command(build_parser, run)
