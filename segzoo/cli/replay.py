"""`segzoo replay`: run the batch that stopped a training again."""

import argparse

from .command import command
from .parser import CommandLine, name_or_path

EXAMPLES = """
examples:
  as the training ran it:
    %(prog)s output/nonfinite_118.pth
  on a CPU, in single precision:
    %(prog)s output/nonfinite_118.pth --device cpu --fp32

The file holds the batch, the weights, the random state and the configuration of that iteration; nothing else
is needed, not even the dataset. The forward and backward pass are repeated in the precision of the training,
or in full single precision with --fp32.

exit status: 0 done, 2 wrong input
"""


def build_parser() -> CommandLine:
    parser = CommandLine(
        "replay",
        description="Run the batch that stopped a training again, and find the first non-finite output.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "capsule",
        type=name_or_path,
        metavar="FILE",
        help="OUTPUT_DIR/nonfinite_<iteration>.pth of the training that stopped",
    )
    running = parser.group("running")
    running.add_argument("--device", default="", help="device to run on (default: that of the training)")
    running.add_argument("--fp32", action="store_true", help="without mixed precision")
    parser.add_trust()
    parser.add_overrides()
    return parser


def run(arguments: argparse.Namespace) -> int:
    from .nonfinite_replay import show_replay

    return show_replay(arguments)


main = command(build_parser, run)
