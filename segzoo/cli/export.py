"""`segzoo export`: write a model as one file that runs without segzoo."""

import argparse

from segzoo.utils.dataset_names import classes_dataset
from segzoo.utils.errors import InputError

from .command import command
from .parser import CommandLine, check_model, path_value, whole_number

EXAMPLES = """
examples:
  a checkpoint of segzoo, which holds its configuration:
    %(prog)s --weights output/street/model_best.pth --size 512 1024 --output street.pt2
  a published checkpoint, for two images at a time:
    %(prog)s --config-file panoptic/coco/mask2former_r50 --weights model_final_94dc52.pkl \\
        --size 800 1216 --batch-size 2 --output mask2former.pt2

The program runs without segzoo. It takes (N, 3, H, W) float pixels in [0, 255] and returns the network's own
outputs by name: `pred_logits` and `pred_masks` of mask classification, `sem_seg_logits` of per-pixel methods.
Normalizing and padding are part of it; resizing images, TEST.PROTOCOL and post-processing are not. The file
is kept only if it computes what the model does.

    extra = {"segzoo.json": ""}
    program = torch.export.load("mask2former.pt2", extra_files=extra).module()
    outputs = program(images)
    description = json.loads(extra["segzoo.json"])  # classes, colors, shapes, thresholds

The functions of `segzoo.modeling.mask_classification.postprocess` turn the outputs for an image into
semantic, panoptic, instance and entity results; they need no model.

exit status: 0 done, 2 wrong input
"""


def build_parser() -> CommandLine:
    parser = CommandLine(
        "export",
        description="Write a model as a torch.export program, one file for images of one size.",
        epilog=EXAMPLES,
    )
    parser.add_model()
    parser.add_data()
    program = parser.group("program")
    program.add_argument(
        "--output", type=path_value, required=True, metavar="FILE", help="the .pt2 file to write"
    )
    program.add_argument(
        "--size",
        nargs=2,
        type=whole_number(1),
        required=True,
        metavar=("HEIGHT", "WIDTH"),
        help="size of the images",
    )
    program.add_argument(
        "--batch-size", type=whole_number(1), default=1, metavar="N", help="images in a batch (default 1)"
    )
    parser.add_overrides(data_is_overrides=True)
    parser.add_check(check_model)
    return parser


def run(args: argparse.Namespace) -> int:
    from segzoo.engine.model_config import model_config

    output, size = args.output, tuple(args.size)
    if output.suffix != ".pt2":
        raise InputError(f"--output {output}: the extension is {output.suffix!r}; expected .pt2")
    if output.exists():
        raise InputError(f"--output {output} exists; delete it or choose another name")
    cfg = model_config(args.config_file, args.opts, trust=args.trust_checkpoint)

    # Imported here: a wrong key is reported without importing models.
    from detectron2.data import MetadataCatalog

    from segzoo.checkpoint import load_checkpoint
    from segzoo.engine import find_trainer, resolve_device
    from segzoo.engine.cuda_settings import exact_settings
    from segzoo.engine.model_description import describe
    from segzoo.export.torch_export import (
        check_exportable,
        describe_program,
        export_program,
        save_program,
    )

    cfg.MODEL.DEVICE = resolve_device(cfg)
    if not cfg.MODEL.WEIGHTS:
        raise InputError("export: MODEL.WEIGHTS is empty; give a checkpoint: --weights FILE")
    model = find_trainer(cfg).build_model(cfg).eval()
    # Before the weights, which may have to be downloaded.
    check_exportable(model)
    report = load_checkpoint(model, cfg.MODEL.WEIGHTS, trust=args.trust_checkpoint)
    ours = describe(cfg, MetadataCatalog.get(classes_dataset(cfg)))
    report.compare(ours)
    report.require_complete("export", "its outputs would be meaningless")
    with exact_settings():
        program = export_program(model, size, args.batch_size)
        description = describe_program(cfg, model, size, args.batch_size)
        difference = save_program(output, program, model, description)
    shapes = ", ".join(f"{name} {shape}" for name, shape in description["outputs"].items())
    print(f"{output} written: images {description['input']['shape']} -> {shapes}")
    print(f"loaded again, its outputs differ from the model's by {difference:.1g} of their norm")
    return 0


main = command(build_parser, run)
