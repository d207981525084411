#!/usr/bin/env python
"""Train, evaluate and draw a panoptic model on generated data, on a CPU, in minutes.

Generates the Shapes dataset, trains a small mask-classification model on it as `segzoo train` would,
evaluates it for semantic, panoptic and entity segmentation, and writes into --output:

    predictions.png     images, ground truth and predictions side by side
    scene_<n>.png       the same, one image each
    loss.png            the loss curve
    and what every training writes: model_final.pth, metrics.json, log.txt, inference/results.json, ...

An interrupted quickstart (Ctrl-C saves a checkpoint) resumes when it is started again. A finished one in
--output is moved to <output>.old-<n>, and a new one starts.
"""

import argparse
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from command_line import EXIT_STATUS, CommandLine, end, path_value, report_errors, whole_number

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
import numpy as np
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from PIL import Image

from segzoo.cli.prepare.shapes import make_shapes
from segzoo.engine import default_setup, find_trainer, launch, resolve_device
from segzoo.engine.distributed.data_parallel import unwrapped
from segzoo.engine.distributed.signals import StoppedBySignal, stop_on_signals
from segzoo.engine.metrics_log import read_metrics
from segzoo.engine.predictor import Predictor
from segzoo.engine.predictor_inputs import as_rgb
from segzoo.engine.run_folder import holds_training, is_finished, move_aside
from segzoo.engine.saved_config import saved_config
from segzoo.model_zoo import load_config
from segzoo.utils.commands import shell_command
from segzoo.utils.paths import datasets_folder
from segzoo.utils.threads import free_processors
from segzoo.visualization.draw import draw_entity, draw_panoptic, segments
from segzoo.visualization.panels import draw_loss_curve, legend, resize, stack, strip

EXAMPLES = f"""
examples:
  %(prog)s
  a check that everything works, in a minute:
    %(prog)s --output output/try --train 64 --val 8 SOLVER.MAX_ITER 20

{EXIT_STATUS}
"""

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = "panoptic/shapes/mask2former_r18_quarter"
IMAGE_SIDE = 256
IMAGES = 3

logger = logging.getLogger("segzoo.quickstart")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=path_value,
        default=Path("output/quickstart"),
        metavar="DIR",
        help="folder for results (default output/quickstart)",
    )
    parser.add_config_file(default=CONFIG)
    parser.add_argument(
        "--train", type=whole_number(1), default=1600, help="training images to generate (default 1600)"
    )
    parser.add_argument(
        "--val", type=whole_number(1), default=200, help="validation images to generate (default 200)"
    )
    parser.add_overrides()
    return parser.parse_args(arguments)


def generate(train: int, val: int) -> None:
    """Generate the dataset where its YAML file expects it, unless it exists."""
    os.environ.setdefault("DETECTRON2_DATASETS", str(REPOSITORY / "datasets"))
    root = datasets_folder() / "shapes"
    make_shapes(root, train, val, workers=min(os.cpu_count() or 1, 8), progress=True)
    print(f"Shapes is in {root}")


def make_room(cfg) -> bool:
    """Move an earlier run in OUTPUT_DIR aside, unless this one resumes it; return whether it does."""
    folder = Path(cfg.OUTPUT_DIR)
    if not holds_training(folder):
        return False
    if not is_finished(folder) and _same_training(folder / "config.yaml", cfg):
        print(f"Resuming the interrupted quickstart in {folder}")
        return True
    print(f"The run that was in {folder} is now {move_aside(folder)}")
    return False


def _same_training(config_file: Path, cfg) -> bool:
    try:
        before = yaml.safe_load(config_file.read_text(encoding="utf-8"))
        now = yaml.safe_load(saved_config(cfg))
        parts = ("MODEL", "SOLVER", "INPUT")
        return all(_without_device(before[part]) == _without_device(now[part]) for part in parts)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return False


def _without_device(part: dict) -> dict:
    return {key: value for key, value in part.items() if key != "DEVICE"}


def train(cfg, resume: bool = False) -> tuple[torch.nn.Module, dict[str, dict[str, float]]]:
    """Train with the configuration's Trainer, from random weights or from an interrupted run.

    Returns:
        The model, and the results of the evaluation after the last iteration: {task: {metric: value}}.
    """
    results: dict[str, dict[str, float]] = {}

    class QuickstartTrainer(find_trainer(cfg)):
        @classmethod
        def test(cls, cfg, model):
            results.clear()
            results.update(super().test(cfg, model))
            return results

    trainer = QuickstartTrainer(cfg)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    logger.info("Training %s, %.1f M parameters", cfg.MODEL.META_ARCHITECTURE, parameters / 1e6)
    if resume:
        trainer.resume_or_load(resume=True)
    trainer.train()
    return unwrapped(trainer.model), results


def results_table(results: dict[str, dict[str, float]]) -> str:
    """Return the metrics of the three tasks, in percent, as lines of text."""
    rows = (
        ("semantic", "sem_seg", ("mIoU", "mAcc", "aAcc")),
        ("panoptic", "panoptic_seg", ("PQ", "SQ", "RQ")),
        ("  things", "panoptic_seg", ("PQ_th", "SQ_th", "RQ_th")),
        ("  stuff", "panoptic_seg", ("PQ_st", "SQ_st", "RQ_st")),
        ("entity", "entity_seg", ("AP", "AP50", "AP75")),
    )
    lines = []
    for title, key, names in rows:
        metrics = results.get(key, {})
        cells = [
            f"{name:>6} {metrics[name]:5.1f}" for name in names if not math.isnan(metrics.get(name, math.nan))
        ]
        if cells:
            lines.append(f"  {title:<10}" + "   ".join(cells))
    return "\n".join(lines)


def draw_predictions(cfg, model: torch.nn.Module, output: Path) -> Path:
    """Draw predictions for validation images with many segments; return the file."""
    name = cfg.DATASETS.TEST[0]
    metadata = MetadataCatalog.get(name)
    predictor = Predictor(model)
    rows = []
    for number, record in enumerate(_with_most_segments(DatasetCatalog.get(name), IMAGES), start=1):
        image = as_rgb(record["file_name"])
        result = predictor(image, color="RGB")
        true_ids, true_segments = metadata.load_panoptic(record)
        true_segments = [info for info in true_segments if not info["iscrowd"]]
        panels = [_upsampled(image)]
        for ids, segments_info in ((true_ids, true_segments), segments(result, "panoptic")):
            panels.append(
                draw_panoptic(
                    _upsampled(image),
                    _upsampled(ids, labels=True),
                    segments_info,
                    metadata.classes,
                    metadata.colors,
                    names=False,
                )
            )
        ids, segments_info = segments(result, "entity", 0.5)
        panels.append(draw_entity(_upsampled(image), _upsampled(ids, labels=True), segments_info))
        rows.append(strip(panels, ["image", "ground truth", "panoptic prediction", "entity prediction"]))
        _write(output / f"scene_{number}.png", rows[-1])
    rows.append(legend(metadata.classes, metadata.colors, rows[0].shape[1]))
    _write(output / "predictions.png", stack(rows))
    return output / "predictions.png"


def _with_most_segments(records: list[dict], count: int) -> list[dict]:
    """Return the records with the most segments among the first few dozen, in their order."""
    first = records[: 8 * count]
    most = sorted(first, key=lambda record: -len(record["segments_info"]))[:count]
    return [record for record in first if record in most]


def _upsampled(array: np.ndarray, labels: bool = False) -> np.ndarray:
    height, width = array.shape[:2]
    factor = max(1, IMAGE_SIDE // min(height, width))
    return resize(array, (height * factor, width * factor), labels)


def _write(path: Path, rgb: np.ndarray) -> None:
    # A palette of 256 colors looks the same here and takes a third of the space.
    Image.fromarray(rgb).quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def number_of_processes(cfg) -> int:
    """Return the number of processes that train: on a CPU two with a thread each, if there are two cores.

    Its tensors are too small for two threads to share an operator. Each process takes half of a batch.
    """
    on_cpu = torch.device(resolve_device(cfg)).type == "cpu"
    return 2 if on_cpu and free_processors() >= 2 and cfg.SOLVER.IMS_PER_BATCH % 2 == 0 else 1


def load(arguments: argparse.Namespace):
    """Return the configuration, in every process."""
    cfg = load_config(arguments.config_file, arguments.opts)
    cfg.OUTPUT_DIR = str(arguments.output)
    return cfg


def run(arguments: argparse.Namespace) -> None:
    started = time.time()
    generate(arguments.train, arguments.val)
    cfg = load(arguments)
    resume = make_room(cfg)
    command = shell_command(*sys.argv)
    launch(
        run_process,
        number_of_processes(cfg),
        args=(arguments, resume, command, started),
        device=resolve_device(cfg),
    )


def run_process(arguments: argparse.Namespace, resume: bool, command: str, started: float) -> None:
    """Train and evaluate in one of the processes; the main process draws and prints the results.

    Args:
        arguments: the command line.
        resume: continue the training in --output.
        command: the command that resumes it.
        started: the time at which the quickstart was started.
    """
    cfg = load(arguments)
    default_setup(cfg)
    with stop_on_signals() as signals:
        signals.continued_by = "the same command"
        signals.advice = signals.advice_to_continue()
        signals.resume_command = command
        model, results = train(cfg, resume)
    if not comm.is_main_process():
        return
    predictions = draw_predictions(cfg, model, arguments.output)
    draw_loss_curve(read_metrics(arguments.output / "metrics.json"), arguments.output / "loss.png")
    minutes = (time.time() - started) / 60
    print(f"\nShapes, {arguments.val} validation images, after {minutes:.1f} minutes in all:\n")
    print(results_table(results))
    print(f"\nPredictions: {predictions}\nLoss curve: {arguments.output / 'loss.png'}")
    print(f"Model: {arguments.output / 'model_final.pth'}")


@report_errors
def main(arguments: Sequence[str] | None = None) -> int:
    try:
        run(parse_arguments(arguments))
    except StoppedBySignal as stopped:
        return stopped.exit_status
    return 0


if __name__ == "__main__":
    end(main())
