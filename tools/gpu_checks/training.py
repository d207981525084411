"""Training on Shapes for two minutes as `segzoo train` does, and the metrics of the model."""

import os
import time

import torch
from detectron2.engine import HookBase

from segzoo.cli.prepare.shapes import make_shapes
from segzoo.engine import default_setup, find_trainer
from segzoo.model_zoo import load_config

from . import Rows, Settings

SECONDS = 120.0
# Seconds for what comes before and after: the data, the model, and its metrics.
AROUND = 35.0
CONFIG = "panoptic/shapes/mask2former_r18_quarter"


class StopAfter(HookBase):
    """Ends a training after some seconds of iterations, the first of which are not counted."""

    def __init__(self, seconds: float):
        self._seconds, self._started, self.iterations, self.taken = seconds, 0.0, 0, 0.0

    def after_step(self) -> None:
        now = time.perf_counter()
        self.iterations += 1
        if self.iterations == 1:
            self._started = now
        self.taken = now - self._started
        if self.taken > self._seconds:
            self.trainer.stop("the time of the check is over")


def run(settings: Settings, rows: Rows) -> None:
    folder = (settings.output / "shapes_data").resolve()
    os.environ["DETECTRON2_DATASETS"] = str(folder)
    train, val, processors = (8, 2, 0) if settings.small else (1600, 100, os.cpu_count() or 1)
    make_shapes(folder / "shapes", train=train, val=val, workers=processors)
    overrides = {
        "MODEL.DEVICE": settings.device,
        "DATALOADER.NUM_WORKERS": min(12, processors),
        "OUTPUT_DIR": settings.output / "shapes_run",
        "SOLVER.MAX_ITER": 3 if settings.small else 1800,
        "TEST.EVAL_PERIOD": 0,
        "TEST.NUM_PICTURES": 0,
        "SEED": 1,
    }
    cfg = load_config(CONFIG, [str(word) for pair in overrides.items() for word in pair])
    default_setup(cfg)
    trainer = find_trainer(cfg)(cfg)
    stop = StopAfter(min(SECONDS, max(settings.limit - AROUND, 5.0)))
    trainer.register_hooks([stop])
    trainer.train()
    rows.add(what="iterations", value=stop.iterations)
    rows.add(what="seconds, after the first", value=round(stop.taken, 1))
    rows.add(what="iterations/s, after the first", value=(stop.iterations - 1) / max(stop.taken, 1e-9))
    if settings.on_gpu:
        rows.add(what="peak memory, MiB", value=torch.cuda.max_memory_allocated() / 2**20)
    metrics = type(trainer).test(cfg, trainer.model)
    for task, values in metrics.items():
        for metric in ("mIoU", "PQ", "AP"):
            if metric in values:
                rows.add(what=f"{task}/{metric}", value=float(values[metric]))
