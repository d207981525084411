"""`segzoo analyze`: parameters and GFLOPs of models beside the published ones, or their peak memory."""

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
  peak memory of training and inference, predicted, for ten common models or for one:
    %(prog)s --memory
    %(prog)s semantic/ade20k/segformer_mit_b2 --memory --size 512 512 --batch 8
  with another backbone, as JSON:
    %(prog)s semantic/ade20k/pspnet_r50_v1s_100ep --json MODEL.BACKBONE.VARIANT r101

exit status: 0 done, 2 wrong input
"""


def build_parser() -> CommandLine:
    parser = CommandLine(
        "analyze",
        description="Count parameters and GFLOPs of models, part by part, beside the published ones; or "
        "predict their peak memory.",
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
        help="image size; default: that of the published numbers, 512 512 with --memory",
    )
    counting.add_argument("--json", action="store_true", help="print JSON instead of tables")
    memory = parser.group("memory")
    memory.add_argument(
        "--memory",
        action="store_true",
        help="print the peak memory of training and inference on a CPU; predicted in seconds to minutes "
        "without computing, mostly within 15 %%, or 10 MiB if the peak is below 64 MiB. Without a model: of "
        "ten common ones",
    )
    memory.add_argument(
        "--batch", type=whole_number(1), metavar="N", help="images of a step and of a prediction; default: 2"
    )
    memory.add_argument(
        "--measure", action="store_true", help="also run the model and measure, on Linux; takes far longer"
    )
    parser.add_overrides(data_is_overrides=True)
    return parser


def run(arguments: argparse.Namespace) -> int:
    from .analysis import analyze

    return analyze(arguments)


main = command(build_parser, run)
