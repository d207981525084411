"""`segzoo doctor`: check the installation, the datasets and a configuration, with a line for each item."""

import argparse

from segzoo.utils.commands import command_line, is_source_tree
from segzoo.utils.errors import InputError

from .command import command
from .parser import CommandLine
from .weights_option import weights_in

EXAMPLES = """
examples:
  the installation and the datasets:
    %(prog)s
  also a configuration of the zoo:
    %(prog)s --config-file panoptic/coco/mask2former_r50
  also a configuration with the weights and the dataset to run it with:
    %(prog)s --config-file semantic/camvid/maskformer_r18 --data roads.yaml --weights weights.pth

Each line is ok, warn or FAIL; one that is not ok ends with the remedy. It takes seconds.

exit status: 0 ready, 1 an item FAILed, 2 wrong input
"""


def build_parser() -> CommandLine:
    parser = CommandLine(
        "doctor", description="Check the installation, the datasets and a configuration.", epilog=EXAMPLES
    )
    parser.add_config(weights=True)
    parser.add_data()
    parser.group("make").add_argument(
        "--needs",
        nargs="*",
        metavar="TARGET",
        # An installed package has no Makefile.
        help="only report what `make TARGET` lacks here" if is_source_tree() else argparse.SUPPRESS,
    )
    parser.add_overrides()
    parser.add_check(check_arguments)
    return parser


def check_arguments(parsed: argparse.Namespace) -> None:
    """Raise InputError if options for a configuration are given without one."""
    parsed.config_file = parsed.config_file or weights_in(parsed.opts)
    if parsed.needs is not None or parsed.config_file:
        return
    if parsed.data:
        raise InputError(
            "--data goes with --config-file, which says what model to run; for the dataset alone run "
            f"{command_line('check-data', parsed.data)}"
        )
    if parsed.opts:
        raise InputError(f"KEY VALUE overrides need a --config-file; found {' '.join(parsed.opts)}")


def run(arguments: argparse.Namespace) -> int:
    from .diagnosis import diagnose, report_needs

    if arguments.needs is not None:
        return report_needs(arguments.needs)
    return diagnose(arguments.config_file, arguments.opts, arguments.data, arguments.trust_checkpoint)


main = command(build_parser, run)
