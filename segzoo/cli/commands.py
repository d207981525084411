"""The sub-commands of `segzoo`, in the order in which help lists them."""

from pathlib import Path
from typing import NamedTuple

from segzoo.utils.commands import SCRIPTS


class Command(NamedTuple):
    """A sub-command: its module in `segzoo.cli`, and one line of help."""

    module: str
    help: str


COMMANDS = {
    "train": Command("train", "train a model, on one or many GPUs or on the CPU"),
    "evaluate": Command("evaluate", "compute the metrics of a checkpoint, or of saved predictions"),
    "predict": Command("predict", "draw a model's predictions on images and videos"),
    "submit": Command("submit", "submit trainings and evaluations to SLURM, and show their status"),
    "check-data": Command("check_data", "check every file of a dataset, count classes, and draw examples"),
    "visualize-data": Command("visualize_data", "draw labels, or training samples after augmentation"),
    "convert-data": Command("convert_data", "make labels in a format that segzoo trains on"),
    "prepare": Command("prepare", "make the files that a built-in dataset's download lacks"),
    "export": Command("export", "write a model as one file that runs without segzoo"),
    "convert-checkpoint": Command("convert_checkpoint", "turn any checkpoint into a self-describing one"),
    "analyze": Command("analyze", "count parameters and GFLOPs, beside the published ones"),
    "doctor": Command("doctor", "check the installation, the datasets and a configuration"),
    "replay": Command("replay", "run the batch again that stopped a training with a non-finite loss"),
    "zoo": Command("zoo", "list the models, show one, download its official weights"),
    "config": Command("config", "print a configuration, where each value comes from, or how two differ"),
}

# {command of other projects: what to use instead}.
ELSEWHERE = {
    "demo": "use segzoo predict, which draws a model's predictions on images and videos",
    **dict.fromkeys(("infer", "inference"), "use segzoo predict"),
    **dict.fromkeys(("test", "val", "validate"), "use segzoo evaluate"),
    **dict.fromkeys(("list", "models"), "use segzoo zoo, which lists the models"),
    "download": "use segzoo zoo NAME --download",
    "version": "use segzoo --version",
}

# {script of tools/: the sub-command that does the same}.
COMMANDS_OF_SCRIPTS = {
    "evaluate_predictions": "evaluate --predictions",
    **{Path(script).stem: name for name, (script, *options) in SCRIPTS.items() if not options},
}
