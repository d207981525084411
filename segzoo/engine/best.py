"""The best model of a training: its score, its files, and the closing lines of the log."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from segzoo.checkpoint import read_rest
from segzoo.utils.commands import command_line
from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text

logger = logging.getLogger(__name__)

CHECKPOINT = "model_best.pth"
FILE = "best.json"


class Best(NamedTuple):
    """Score of the best model, and the iteration at which it was evaluated."""

    metric: str
    value: float
    iteration: int


def write_best(folder: str | Path, best: Best, scores: Mapping[str, float]) -> None:
    """Write OUTPUT_DIR/best.json.

    Args:
        scores: all results of that evaluation, {"sem_seg/mIoU": 48.3, ...}; NaN and infinities become null.
    """
    finite = {name: value if math.isfinite(value) else None for name, value in scores.items()}
    document = {**best._asdict(), "checkpoint": CHECKPOINT, "scores": finite}
    write_text(Path(folder, FILE), json.dumps(document, indent=2) + "\n")


def best_is_written(folder: str | Path, best: Best) -> bool:
    """Tell whether best.json matches `best`; a process may have been killed after writing model_best.pth."""
    try:
        document = json.loads(Path(folder, FILE).read_text(encoding="utf-8"))
        return (document["iteration"], document["value"]) == (best.iteration, best.value)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_best(folder: str | Path, metric: str) -> Best | None:
    """Return the score that OUTPUT_DIR/model_best.pth holds; None if there is no such file or score.

    best.json and metrics.json are not read: a process may have been killed before it wrote them.
    """
    file = Path(folder, CHECKPOINT)
    if not metric or not file.is_file():
        return None
    try:
        rest = read_rest(file)
        value, _ = rest["trainer"]["latest_scalars"][metric]
        return Best(metric, float(value), int(rest["iteration"]))
    except (InputError, OSError, KeyError, TypeError, ValueError) as error:
        logger.warning("%s does not hold its %s (%s) and will be replaced", file, metric, error)
        return None


def closing_lines(
    folder: str | Path, iterations: int, best: Best | None, evaluated: bool, exportable: bool
) -> list[str]:
    """Return the last lines of a training's log: best score, files, and commands to use them.

    Args:
        folder: OUTPUT_DIR.
        iterations: number of iterations trained.
        evaluated: whether there are datasets to evaluate on.
        exportable: whether `segzoo export` can write the model.
    """
    folder = Path(folder)
    score = f"; best {best.metric} {best.value:.4f}, at iteration {best.iteration}" if best else ""
    weights = folder / (CHECKPOINT if best else "model_final.pth")
    names = ["model_final.pth", CHECKPOINT, FILE, "metrics.json", "inference/results.json"]
    there = ", ".join(name for name in names if (folder / name).is_file())
    size = ("--size", "HEIGHT", "WIDTH", "--output", "model.pt2")
    commands = {
        "evaluate": command_line("evaluate", "--weights", weights),
        "draw": command_line("predict", "--weights", weights, "--input", "IMAGE", "--output", "drawn"),
        "export": command_line("export", "--weights", weights, *size),
    }
    if not evaluated:
        commands.pop("evaluate")
    if not exportable:
        commands.pop("export")
    return [
        f"Finished after {iterations} iterations{score}",
        f"Files in {folder}: {there}",
        *(f"To {what}: {line}" for what, line in commands.items()),
    ]
