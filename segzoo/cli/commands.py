"""The sub-commands of `segzoo`, in the order in which help lists them."""

from pathlib import Path
from typing import NamedTuple

from segzoo.utils.commands import SCRIPTS


class Command(NamedTuple):
    """A sub-command: the module of `segzoo.cli` that it is, and one line of help."""

    module: str
    help: str


COMMANDS = {
    "train": Command("train", "train a model, on one or many GPUs or on the CPU"),
    "evaluate": Command("evaluate", "compute the metrics of a checkpoint, or of predictions that were saved"),
    "predict": Command("predict", "draw a model's predictions on images and videos"),
    "submit": Command("submit", "submit trainings and evaluations to SLURM, and show their status"),
    "check-data": Command("check_data", "read every file of a dataset as training does, count, and draw"),
    "visualize-data": Command("visualize_data", "draw labels, or what training sees after augmentation"),
    "convert-data": Command("convert_data", "make labels in a format that segzoo trains on"),
    "prepare": Command("prepare", "make what a built-in dataset's download lacks; show where to get it"),
    "export": Command("export", "write a model as one file that runs without segzoo"),
    "convert-checkpoint": Command("convert_checkpoint", "turn any checkpoint into a self-describing one"),
    "analyze": Command("analyze", "count parameters and GFLOPs, beside the published ones"),
    "doctor": Command("doctor", "check the installation, the datasets and a configuration"),
    "replay": Command("replay", "run the batch again that ended a training with a loss that is not finite"),
    "zoo": Command("zoo", "list the models, show one, download its official weights"),
    "config": Command("config", "print a configuration, where each value comes from, or how two differ"),
}

# What is typed from habit, and what to say of it.
ELSEWHERE = {
    "demo": "use segzoo predict, which draws a model's predictions on images and videos",
}

# The sub-command that does what a script of that name does.
OF_SCRIPTS = {
    "evaluate_predictions": "evaluate --predictions",
    **{Path(script).stem: name for name, (script, *options) in SCRIPTS.items() if not options},
}
