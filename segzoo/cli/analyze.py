"""`segzoo analyze`: count parameters and GFLOPs of models, part by part, beside the published ones."""

import argparse

from .command import command
from .parser import CommandLine, name_or_path, whole_number

EXAMPLES = """
examples:
  two models of the zoo:
    %(prog)s semantic/ade20k/maskformer_swin_tiny panoptic/coco/maskformer_r50
  a configuration of your own, at another size:
    %(prog)s --config-file my.yaml --size 512 1024
  a checkpoint of segzoo, which holds its configuration:
    %(prog)s output/street/model_best.pth
  with another backbone, as JSON:
    %(prog)s semantic/ade20k/pspnet_r50_v1s_100ep --json MODEL.BACKBONE.VARIANT r101

exit status: 0 done, 2 wrong input
"""


def build_parser() -> CommandLine:
    parser = CommandLine(
        "analyze",
        description="Count parameters and GFLOPs of models, part by part, beside the published ones.",
        epilog=EXAMPLES,
    )
    parser.add_argument("names", nargs="*", type=name_or_path, help="the same as --config-file")
    models = parser.group("model")
    parser.add_config(repeated=True, weights=True)
    models.add_argument("--all", action="store_true", help="every model of the zoo with a published number")
    parser.add_data()
    counting = parser.group("counting")
    counting.add_argument(
        "--size",
        nargs=2,
        type=whole_number(1),
        metavar=("HEIGHT", "WIDTH"),
        help="image size; default: that of the published numbers",
    )
    counting.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_overrides(data_is_overrides=True)
    return parser


def run(arguments: argparse.Namespace) -> int:
    from .analysis import analyze

    return analyze(arguments)


main = command(build_parser, run)
