"""Check a copy of a dataset: read every file as training does, count classes, and draw examples.

    segzoo check-data camvid --output out/          # all splits of a built-in dataset
    segzoo check-data camvid_val                    # one split
    segzoo check-data roads.yaml --json             # your own, for a script
    segzoo check-data --config-file semantic/camvid/maskformer_r18
    segzoo check-data --keys                        # the keys of your own dataset's YAML

Reports which layout was found and where, whether all published images are there, which files cannot be read,
hold labels that are no class or differ in size from their image, how often each class occurs, and which
images two splits share. With --output, writes a figure of examples for each split, and report.json.

A dataset of your own is a YAML file:

    # roads.yaml
    splits: {roads_train: train, roads_val: val}    # name: what {split} stands for
    images: images/{split}/{stem}.jpg
    labels: masks/{split}/{stem}.png
    classes: [road, building, sky]                  # in the order of the values 0, 1, 2; 255 is void
"""

import argparse

from segzoo.cli import dataset_guide
from segzoo.cli.command import command
from segzoo.cli.parser import EXIT_STATUS_OF_CHECKS, CommandLine, path_value, whole_number

# Up to this number of images, hashing all of them is quick.
HASHED_BY_DEFAULT = 5000


class _ShowKeys(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        print(dataset_guide.section("Your own dataset"))
        parser.exit()


def build_parser() -> CommandLine:
    """Return the command line of `segzoo check-data`."""
    parser = CommandLine("check-data", description=__doc__, epilog=EXIT_STATUS_OF_CHECKS)
    parser.add_dataset()
    parser.add_split("only these splits of the dataset")
    parser.add_argument(
        "--output", type=path_value, metavar="DIR", help="folder for the figures and report.json"
    )
    parser.add_argument("--number", type=whole_number(1), default=12, help="examples in a figure (12)")
    parser.add_workers()
    parser.add_argument(
        "--hash",
        action="store_true",
        help=f"find equal images of different names in sets of more than {HASHED_BY_DEFAULT} images too",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of tables")
    parser.add_argument(
        "--keys", action=_ShowKeys, nargs=0, help="explain the keys of a dataset's YAML, and exit"
    )
    parser.add_overrides()
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Check the dataset; return the exit status."""
    from .chosen import chosen_splits

    names = chosen_splits(arguments)

    from .check import check_data

    return check_data(arguments, names)


main = command(build_parser, run)
