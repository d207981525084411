"""Turns any checkpoint that fits a configuration into a segzoo one: self-describing, without pickled objects.

    python tools/convert_checkpoint.py --config-file configs/panoptic/coco/maskformer_r50.yaml \\
        --input model_final_6f60dc.pkl --output maskformer_r50.safetensors
"""

import argparse
from collections.abc import Sequence

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
from command_line import EXIT_STATUS, CommandLine, end, explained, name_or_path, path_value
from detectron2.modeling import build_model

from segzoo.checkpoint import compare_description, load_checkpoint, save_checkpoint
from segzoo.engine.model_config import model_config
from segzoo.engine.model_description import classes_metadata, describe_checkpoint
from segzoo.utils.errors import InputError


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(
        description=__doc__, epilog=EXIT_STATUS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_config()
    parser.add_data()
    parser.add_argument(
        "--input", type=name_or_path, required=True, metavar="FILE", help="path or URL of the checkpoint"
    )
    parser.add_argument(
        "--output", type=path_value, required=True, metavar="FILE", help=".pth or .safetensors file to write"
    )
    parser.add_trust()
    parser.add_argument(
        "--allow-incomplete",
        action="store_true",
        help="convert although weights keep their random values (a backbone, another number of classes)",
    )
    parser.add_overrides(data_is_overrides=True)
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> None:
    output = args.output
    if output.suffix not in (".pth", ".safetensors"):
        raise InputError(
            f"--output {output}: the extension is {output.suffix!r}; expected .pth or .safetensors"
        )
    if output.exists():
        raise InputError(f"--output {output} exists; delete it or choose another name")
    cfg = model_config(args.config_file, args.opts, weights=args.input, trust=args.trust_checkpoint)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    report = load_checkpoint(model, args.input, trust=args.trust_checkpoint)
    print(report)
    if not args.allow_incomplete:
        report.require_complete("convert_checkpoint", "pass --allow-incomplete to convert it all the same")
    description = describe_checkpoint(cfg, classes_metadata(cfg))
    # A file that says what it was trained for must not be relabelled as something else.
    differences = compare_description(report.description, description)
    if differences:
        raise InputError(
            f"--input {args.input} was trained for another config than {args.config_file} "
            f"({differences[0]}); give the config it was trained with"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(output, {"model": model.state_dict(), "segzoo": description})
    print(f"{output} written: {len(model.state_dict())} weights, {len(description['classes'])} classes")


@explained
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool; returns its exit status: 0, or 2 for wrong input."""
    run(parse_arguments(arguments))
    return 0


if __name__ == "__main__":
    end(main())
