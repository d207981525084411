"""Draw the files of a dataset with their labels, or training samples after augmentation.

    segzoo visualize-data --data camvid_val --output out/
    segzoo visualize-data --data roads.yaml --output out/
    segzoo visualize-data --config-file semantic/camvid/maskformer_r18 --output out/
    segzoo visualize-data --config-file semantic/camvid/maskformer_r18 --data roads.yaml --output out/

Writes a PNG for each image, the image beside its labels, and an overview of all, sheet.png.
"""

import argparse

from segzoo.cli.command import command
from segzoo.cli.parser import EXIT_STATUS, CommandLine, name_or_path, path_value, whole_number
from segzoo.utils.errors import InputError


def build_parser() -> CommandLine:
    """Return the command line of `segzoo visualize-data`."""
    parser = CommandLine("visualize-data", description=__doc__, epilog=EXIT_STATUS)
    parser.add_config()
    parser.add_data()
    parser.add_split("only these splits; default: all of --data or of the config", "--dataset")
    # The earlier name of --data.
    parser.add_argument("--dataset-file", type=name_or_path, metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument(
        "--source",
        choices=("mapper", "annotation"),
        help="draw training samples (default with --config-file), or the files as they are (default)",
    )
    parser.add_argument(
        "--output", type=path_value, required=True, metavar="DIR", help="folder for the drawings"
    )
    parser.add_argument("--number", type=whole_number(1), default=12, help="number of images (12)")
    parser.add_overrides()
    parser.add_check(_choose_source)
    return parser


def _choose_source(arguments: argparse.Namespace) -> None:
    arguments.source = arguments.source or ("mapper" if arguments.config_file else "annotation")
    if arguments.source == "mapper" and not arguments.config_file:
        raise InputError("--source mapper needs --config-file, which says how images are augmented")


def run(arguments: argparse.Namespace) -> int:
    """Write the drawings; return the exit status."""
    from .chosen import annotated_splits, training_config

    chosen = (training_config if arguments.source == "mapper" else annotated_splits)(arguments)

    from .drawings import draw

    draw(arguments, chosen)
    return 0


main = command(build_parser, run)
