"""`segzoo predict`: draw a model's predictions on images and videos."""

import argparse

from segzoo.utils.tasks import TASKS

from .command import command
from .parser import CommandLine, check_model, name_or_path, path_value, share, whole_number

EXAMPLES = """
examples:
  a checkpoint of segzoo, which holds its configuration:
    %(prog)s --weights output/street/model_best.pth --input a.jpg folder/ --output out/
  a model of the zoo with its authors' weights, which are downloaded:
    %(prog)s --model panoptic/coco/maskformer_r50 --input a.jpg --output out/
  a checkpoint as published, on images and videos:
    %(prog)s --config-file panoptic/coco/maskformer_r50 --weights model_final_6f60dc.pkl \\
        --input a.jpg folder/ 'more/*.png' clip.mp4 --output out/
  also write label maps, of another task that the model supports:
    %(prog)s --weights model_best.pth --task semantic --save-labels --input folder/ --output out/
  a camera, in a window:
    %(prog)s --weights model_best.pth --webcam

Images keep their names, as JPEG; a video becomes an .mp4 of the same frame rate.

exit status: 0 done, 1 some of the inputs could not be read or drawn, 2 wrong input
"""


def build_parser() -> CommandLine:
    parser = CommandLine(
        "predict", description="Draw a model's predictions on images and videos.", epilog=EXAMPLES
    )
    parser.add_model()
    parser.group("model").add_argument(
        "--random-weights", action="store_true", help="run with random weights, only to try the command"
    )
    parser.add_data()
    source = parser.group("input, one of").add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        type=name_or_path,
        nargs="+",
        action="extend",
        metavar="PATH",
        help="images, folders, globs, video files",
    )
    source.add_argument(
        "--video-input", type=name_or_path, metavar="FILE", help="a video file, or an address OpenCV can open"
    )
    source.add_argument(
        "--webcam",
        type=whole_number(0),
        nargs="?",
        const=0,
        metavar="NUMBER",
        help="a camera (the first one is 0, the default), until q is pressed",
    )
    result = parser.group("output")
    result.add_argument(
        "--output", type=path_value, metavar="DIR", help="folder for results; default: show them in a window"
    )
    result.add_argument("--task", choices=TASKS, help="what to draw; default: the model's task")
    result.add_argument(
        "--confidence-threshold",
        type=share,
        metavar="SCORE",
        help="minimum score of the segments to draw (0.5; panoptic: all that the model has kept)",
    )
    result.add_argument(
        "--save-labels", action="store_true", help="write label maps and ids as PNG and JSON to DIR/labels"
    )
    parser.add_overrides(data_is_overrides=True)
    parser.add_check(check_model)
    return parser


def run(arguments: argparse.Namespace) -> int:
    from segzoo.engine.model_config import model_config

    # First: a wrong key is reported without importing models.
    cfg = model_config(arguments.config_file, arguments.opts, trust=arguments.trust_checkpoint)

    from .prediction.runner import draw_predictions

    return draw_predictions(arguments, cfg)


main = command(build_parser, run)
