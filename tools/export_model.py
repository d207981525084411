#!/usr/bin/env python
"""Writes a model as a torch.export program: one file that runs without segzoo, for images of one size.

    python tools/export_model.py --weights output/street/model_best.pth --size 512 1024 --output street.pt2
    python tools/export_model.py --config-file configs/panoptic/coco/mask2former_r50.yaml \\
        --size 800 1216 --output mask2former.pt2 --weights model_final_94dc52.pkl

The program takes (N, 3, H, W) float pixels in [0, 255] and returns the network's own outputs by name:
`pred_logits` and `pred_masks` of mask classification, `sem_seg_logits` of per-pixel methods. Normalising and
padding are part of it; resizing pictures, TEST.PROTOCOL and post-processing are not. The file is kept only if
it computes what the model does.

    extra = {"segzoo.json": ""}
    program = torch.export.load("mask2former.pt2", extra_files=extra).module()
    outputs = program(images)
    facts = json.loads(extra["segzoo.json"])  # classes, colours, shapes, thresholds

Semantic, panoptic, instance and entity results are made of the outputs of an image by the functions of
`segzoo.modeling.mask_classification.postprocess`, which need no model.
"""

import argparse
from collections.abc import Sequence

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
from command_line import EXIT_STATUS, CommandLine, check_model, end, explained, path_value, whole_number
from detectron2.data import MetadataCatalog

from segzoo.checkpoint import compare_description, load_checkpoint
from segzoo.engine import Trainer, resolve_device
from segzoo.engine.model_config import model_config
from segzoo.engine.model_description import classes_dataset, describe
from segzoo.export.torch_export import describe_program, export_program, save_program
from segzoo.utils.errors import InputError


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(
        description=__doc__, epilog=EXIT_STATUS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_config()
    parser.add_weights()
    parser.add_data()
    parser.add_argument("--output", type=path_value, required=True, metavar="FILE", help=".pt2 file to write")
    parser.add_argument(
        "--size",
        nargs=2,
        type=whole_number(1),
        required=True,
        metavar=("HEIGHT", "WIDTH"),
        help="of the images",
    )
    parser.add_argument(
        "--batch-size", type=whole_number(1), default=1, help="images run together (default 1)"
    )
    parser.add_trust()
    parser.add_overrides(data_is_overrides=True)
    parsed = parser.parse_args(arguments)
    check_model(parsed)
    return parsed


def run(args: argparse.Namespace) -> None:
    output, size = args.output, tuple(args.size)
    if output.suffix != ".pt2":
        raise InputError(f"--output {output}: the extension is {output.suffix!r}; expected .pt2")
    if output.exists():
        raise InputError(f"--output {output} exists; delete it or choose another name")
    cfg = model_config(args.config_file, args.opts, trust=args.trust_checkpoint)
    cfg.MODEL.DEVICE = resolve_device(cfg)
    if not cfg.MODEL.WEIGHTS:
        raise InputError("export_model: MODEL.WEIGHTS is empty; give a checkpoint: --weights FILE")
    model = Trainer.build_model(cfg).eval()
    report = load_checkpoint(model, cfg.MODEL.WEIGHTS, trust=args.trust_checkpoint)
    ours = describe(cfg, MetadataCatalog.get(classes_dataset(cfg)))
    report.differences = compare_description(report.description, ours)
    report.require_complete("export_model", "its outputs would mean nothing")
    program = export_program(model, size, args.batch_size)
    description = describe_program(cfg, model, size, args.batch_size)
    difference = save_program(output, program, model, description)
    shapes = ", ".join(f"{name} {shape}" for name, shape in description["outputs"].items())
    print(f"{output} written: images {description['input']['shape']} -> {shapes}")
    print(f"read back and run, it differs from the model by {difference:.1g} of the outputs' norm")


@explained
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool; returns its exit status: 0, or 2 for wrong input."""
    run(parse_arguments(arguments))
    return 0


if __name__ == "__main__":
    end(main())
