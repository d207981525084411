"""`segzoo convert-checkpoint`: turn any checkpoint that fits a configuration into one of segzoo."""

import argparse

from segzoo.utils.errors import InputError

from .command import command
from .parser import CommandLine, name_or_path, path_value
from .weights_option import weights_in

EXAMPLES = """
examples:
  a published checkpoint, without the pickled objects that it holds:
    %(prog)s --config-file panoptic/coco/maskformer_r50 \\
        --input model_final_6f60dc.pkl --output maskformer_r50.safetensors
  the same, downloaded:
    %(prog)s --model panoptic/coco/maskformer_r50 --output maskformer_r50.safetensors
  a checkpoint of a training, without its optimizer:
    %(prog)s --input output/street/model_best.pth --output street.pth

The file that is written describes itself: it holds its configuration, classes and colors.

exit status: 0 done, 2 wrong input
"""


def build_parser() -> CommandLine:
    parser = CommandLine(
        "convert-checkpoint",
        description="Turn any checkpoint that fits a configuration into a self-describing one of segzoo.",
        epilog=EXAMPLES,
    )
    parser.add_model()
    parser.add_data()
    files = parser.group("files")
    files.add_argument(
        "--input", dest="weights", type=name_or_path, metavar="FILE", help="the same as --weights"
    )
    files.add_argument(
        "--output", type=path_value, required=True, metavar="FILE", help=".pth or .safetensors file to write"
    )
    files.add_argument(
        "--allow-incomplete",
        action="store_true",
        help="convert even if weights keep their random values (a backbone, another number of classes)",
    )
    parser.add_overrides(data_is_overrides=True)
    parser.add_check(_check)
    return parser


def _check(parsed: argparse.Namespace) -> None:
    if not weights_in(parsed.opts):
        raise InputError("--input is missing; give the checkpoint to convert, or --model")


def run(args: argparse.Namespace) -> int:
    from segzoo.engine.model_config import model_config

    output = args.output
    if output.suffix not in (".pth", ".safetensors"):
        raise InputError(
            f"--output {output}: the extension is {output.suffix!r}; expected .pth or .safetensors"
        )
    if output.exists():
        raise InputError(f"--output {output} exists; delete it or choose another name")
    weights = weights_in(args.opts)
    cfg = model_config(args.config_file, args.opts, trust=args.trust_checkpoint)

    # Imported here: a wrong key is reported without importing models.
    from segzoo.checkpoint import load_checkpoint, save_checkpoint
    from segzoo.engine.model_description import classes_metadata, describe_checkpoint
    from segzoo.modeling.build import build_model

    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    report = load_checkpoint(model, weights, trust=args.trust_checkpoint)
    print(report)
    if not args.allow_incomplete:
        report.require_complete("convert-checkpoint", "pass --allow-incomplete to convert it anyway")
    description = describe_checkpoint(cfg, classes_metadata(cfg))
    # A checkpoint must not get a description that contradicts its own.
    report.compare(description)
    if report.differences:
        raise InputError(
            f"{weights} was trained for another config than {args.config_file} "
            f"({report.differences[0]}); give the config it was trained with"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(output, {"model": model.state_dict(), "segzoo": description})
    print(f"{output} written: {len(model.state_dict())} weights, {len(description['classes'])} classes")
    return 0


main = command(build_parser, run)
