"""`segzoo evaluate`: compute the metrics of a checkpoint, or of saved predictions."""

import argparse
import functools

from segzoo.utils.errors import InputError

from .command import command
from .parser import CommandLine, name_or_path, path_value, share, take_data
from .train import add_processes, add_shard
from .weights_option import weights_in

EXAMPLES = """
examples:
  a model of the zoo with its authors' weights, which are downloaded:
    %(prog)s --model semantic/ade20k/maskformer_swin_tiny
  a checkpoint as published:
    %(prog)s --config-file semantic/ade20k/maskformer_swin_tiny --weights model_final_8657a5.pkl
  a checkpoint of segzoo, which holds its configuration; on 8 GPUs:
    %(prog)s --weights output/street/model_best.pth --num-gpus 8
  with another protocol, saving the predictions:
    %(prog)s --weights model_best.pth TEST.PROTOCOL segformer_ms TEST.SAVE_PREDICTIONS True
  in four jobs, in any order; each resumes where it stopped, the last to finish merges:
    %(prog)s --weights model_best.pth --shard 1/4
  with boundary AP, boundary PQ and boundary IoU in addition to the standard metrics:
    %(prog)s --weights model_best.pth TEST.EVALUATORS "('boundary',)"
  saved predictions, without a model:
    %(prog)s --data camvid_val --predictions output/inference --evaluators boundary

A checkpoint is tested on DATASETS.TEST. Results go to OUTPUT_DIR/inference, without OUTPUT_DIR to a new
folder beside the checkpoint. With --predictions they go to FOLDER/rescored, or to --output: the tables are
printed, and results.json holds the protocol under which the predictions were made.

exit status: 0 done, 2 wrong input
"""
# Options that are valid with --predictions only, and those that are valid with a model only.
PREDICTION_OPTIONS = (
    *("tasks", "dataset_file", "output", "evaluators", "boundary_dilation", "box_ap", "entity_area"),
    "class_averaging",
)
MODEL_OPTIONS = ("model", "weights", "shard", "resume", "num_gpus", "num_machines")
# {option for predictions: the key that does the same for a model}.
MODEL_KEYS = {
    "evaluators": "TEST.EVALUATORS",
    "boundary_dilation": "TEST.BOUNDARY_DILATION",
    "box_ap": "TEST.BOX_AP",
    "entity_area": "TEST.ENTITY_AREA",
    "tasks": "TEST.TASKS",
    "dataset_file": "DATASETS.FILES",
    "output": "OUTPUT_DIR",
}


def build_parser() -> CommandLine:
    parser = CommandLine(
        "evaluate",
        description="Compute the metrics of a checkpoint, or of saved predictions.",
        epilog=EXAMPLES,
    )
    parser.add_model()
    parser.add_data()
    parser.add_split("splits to test on (DATASETS.TEST); one for saved predictions", "--dataset")
    add_shard(parser)
    parser.group("evaluation").add_argument(
        "--resume", action="store_true", help="evaluate the last checkpoint in OUTPUT_DIR"
    )
    add_processes(parser)
    saved = parser.group("saved predictions (TEST.SAVE_PREDICTIONS True)")
    saved.add_argument(
        "--predictions",
        type=path_value,
        metavar="FOLDER",
        help="the folder with sem_seg/, predictions/ and predictions.json, entity_predictions/ and "
        "entity_predictions.json, coco_instances_results.json, or cityscapes_instances/; usually "
        "OUTPUT_DIR/inference",
    )
    saved.add_argument(
        "--tasks",
        nargs="+",
        default=[],
        metavar="TASK",
        help="semantic, panoptic, entity, instance; default: all found",
    )
    saved.add_argument(
        "--dataset-file",
        type=name_or_path,
        action="append",
        default=[],
        metavar="FILE",
        help="the same as --data; may be repeated",
    )
    saved.add_argument(
        "--class-averaging",
        choices=("valid", "ground_truth", "all"),
        default="valid",
        help="classes to average over (valid)",
    )
    saved.add_argument(
        "--evaluators",
        nargs="+",
        default=[],
        metavar="NAME",
        help="evaluators in addition to the standard ones: boundary (for a model: TEST.EVALUATORS)",
    )
    saved.add_argument(
        "--boundary-dilation",
        type=share,
        metavar="SHARE",
        help="width of boundaries as a share of the image's diagonal (0.02; Cityscapes: 0.005)",
    )
    saved.add_argument(
        "--box-ap",
        choices=("predicted", "always", "never"),
        default="predicted",
        help="box AP of instances: for predicted boxes (the default), always (also for the boxes of masks), "
        "or never",
    )
    saved.add_argument(
        "--entity-area",
        choices=("mask", "box"),
        default="mask",
        help="size of a true entity in AP by size: the area of its mask, of its box (as in EntitySeg)",
    )
    saved.add_argument("--output", type=path_value, metavar="FOLDER", help="folder for results.json")
    parser.add_overrides()
    parser.add_check(functools.partial(check_arguments, parser))
    return parser


def check_arguments(parser: CommandLine, parsed: argparse.Namespace) -> None:
    """Raise InputError if there is nothing to evaluate, or options contradict each other."""
    for name in MODEL_OPTIONS if parsed.predictions else PREDICTION_OPTIONS:
        if getattr(parsed, name) != parser.get_default(name):
            flag = f"--{name.replace('_', '-')}"
            if parsed.predictions:
                raise InputError(f"{flag} runs a model, --predictions does not; leave one of them out")
            key = MODEL_KEYS.get(name)
            remedy = f"for a model set {key}" if key else "leave it out"
            raise InputError(f"{flag} scores saved predictions, with --predictions FOLDER; {remedy}")
    if parsed.predictions:
        if len(set(parsed.split)) > 1:
            raise InputError(
                f"--split {' '.join(parsed.split)}: --predictions are those of one split; give one"
            )
        return
    if parsed.split:
        if "DATASETS.TEST" in parsed.opts:
            raise InputError("--split is DATASETS.TEST; give one of them")
        if parsed.data:
            from .dataset_option import check_splits, splits_of

            check_splits(parsed.split, splits_of(parsed.data), parsed.data)
        parsed.opts = ["DATASETS.TEST", str(tuple(parsed.split)), *parsed.opts]
    take_data(parsed)
    if not parsed.config_file and not weights_in(parsed.opts):
        raise InputError(
            "there is nothing to evaluate; give --model, or --config-file and --weights, or --predictions "
            "FOLDER for saved predictions"
        )


def run(arguments: argparse.Namespace) -> int:
    if arguments.predictions:
        from .saved_predictions import score

        return score(arguments)
    from .training import train_or_evaluate

    arguments.eval_only, arguments.overwrite = True, False
    return train_or_evaluate(arguments)


main = command(build_parser, run)
