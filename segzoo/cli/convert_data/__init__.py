"""Convert labels into another format: into one that segzoo trains on, or from it.

    segzoo convert-data panoptic --help
    segzoo convert-data panoptic roads.yaml --instances instances_{split}.json
    segzoo convert-data panoptic-to-detection coco

Many formats need no conversion: `segzoo check-data --keys` shows which labels a dataset's YAML can describe.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from segzoo.cli.command import command
from segzoo.cli.parser import EXIT_STATUS, CommandLine
from segzoo.utils.commands import command_line
from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

# {conversion, whose module in this package has _ for -: line of help}.
CONVERSIONS = {
    "panoptic": "panoptic labels from semantic labels and instances",
    "panoptic-to-detection": "COCO's detection format, with RLE masks, from panoptic labels",
}


def build_parser() -> CommandLine:
    """Return the command line without a conversion."""
    width = max(map(len, CONVERSIONS))
    listed = "\n".join(f"  {name:<{width}}  {about}" for name, about in CONVERSIONS.items())
    epilog = f"conversions:\n{listed}\n\n{EXIT_STATUS}"
    parser = CommandLine("convert-data", description=__doc__, epilog=epilog)
    parser.add_argument("conversion", nargs="?", help="one of those below, followed by its options")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Refuse a missing or unknown conversion.

    Raises:
        InputError: always.
    """
    known = f"; known: {', '.join(CONVERSIONS)}; see `{command_line('convert-data', '--help')}`"
    if arguments.conversion is None:
        raise InputError(f"the conversion is missing{known}")
    close = did_you_mean(arguments.conversion, CONVERSIONS)
    raise InputError(f"unknown conversion {arguments.conversion}{close or known}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `segzoo convert-data`; return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in CONVERSIONS:
        module = words[0].replace("-", "_")
        return importlib.import_module(f".{module}", __name__).main(words[1:])
    if words and not words[0].startswith("-"):
        words = words[:1]  # the others are options of a conversion that does not exist
    return command(build_parser, run)(words)
