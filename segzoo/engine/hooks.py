"""Hooks of a training: checkpoints, evaluation with the best model kept, and records.

All run in every process: a checkpoint holds the random states of all.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.engine.hooks import LRScheduler
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text
from segzoo.utils.logging import log_fields

from .best import Best, best_is_written, read_best, write_best
from .metrics_log import has_results
from .progress import DataWaitWarning, loss_fields, put_speed
from .rng_state import preserved_random_state
from .saved_config import saved_config

logger = logging.getLogger(__name__)

# Seconds after the first iteration within which a progress line is shown.
FIRST_LINE = 8.0


class CheckpointHook(HookBase):
    """Hook that saves model_<iteration>.pth every `period` iterations, and model_final.pth after the last."""

    def __init__(self, period: int):
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter:
            self.trainer.save_checkpoint("model_final")
        elif self._period > 0 and done % self._period == 0:
            self.trainer.save_checkpoint(f"model_{self.trainer.iter:07d}")


class LearningRateHook(LRScheduler):
    """Hook that steps the schedule; records "lr", the rate of most parameters, and others as "lr_x<factor>".

    If there are many, as with layer decay, the lowest and the highest are recorded. Parameters with their own
    schedule have "lr_<name prefix>_x<factor>".
    """

    MOST = 8

    def __init__(self, base_lr: float):
        super().__init__()
        self._base_lr = base_lr or 1.0

    def after_step(self) -> None:
        rates = {}
        for group in self.trainer.optimizer.param_groups:
            multiplier = group.get("initial_lr", group["lr"]) / self._base_lr
            prefix = f"{group['schedule']}_" if group.get("schedule") else ""
            rates[f"lr_{prefix}x{multiplier:.4g}"] = group["lr"]
        if len(rates) > self.MOST:
            rates = {name: rates[name] for name in (min(rates, key=rates.get), max(rates, key=rates.get))}
        if len(rates) > 1:
            self.trainer.storage.put_scalars(**rates, smoothing_hint=False)
        super().after_step()


class EvaluationHook(HookBase):
    """Hook that evaluates periodically and after the last iteration; keeps the best model, can stop early.

    It comes after CheckpointHook: a failing evaluation loses no training. An evaluation that a killed run
    missed at its last checkpoint, the final one included, is run on resuming. Past values of the metric are
    read from metrics.json of the resumed run, the best one also from model_best.pth, which may be of a later
    iteration. Random states are preserved.

    Attributes:
        best: the score of the model in model_best.pth; None if there is none.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict], best_metric: str = "", patience: int = 0):
        """
        Args:
            period: iterations between evaluations; 0: only after the last one.
            evaluate: returns a nested dict of results in the main process.
            best_metric: metric that chooses model_best.pth, such as "sem_seg/mIoU", higher is better; "" for
                none.
            patience: number of evaluations without a better value until training stops; 0: never.
        """
        self._period = period
        self._evaluate = evaluate
        self._metric = best_metric
        self._patience = patience
        self._values: list[float] = []
        self.best: Best | None = None

    def before_train(self) -> None:
        folder = self.trainer.cfg.OUTPUT_DIR
        best = read_best(folder, self._metric) if comm.is_main_process() else None
        past, self.best = comm.all_gather((self.trainer.past_metrics, best))[0]
        self._values = [_comparable(line[self._metric]) for line in past if self._metric in line]
        if self.best and comm.is_main_process() and not best_is_written(folder, self.best):
            write_best(folder, self.best, {self._metric: self.best.value})
        if self.is_missing(past):
            done = self.trainer.start_iter
            # At the iteration for which the uninterrupted run would have saved model_best.pth.
            self.trainer.iter = self.trainer.storage.iter = done - 1
            self._run()
            self.trainer.iter = self.trainer.storage.iter = done

    def after_step(self) -> None:
        if self.due(self.trainer.iter + 1):
            self._run()

    def is_missing(self, past: list[dict]) -> bool:
        """Tell whether the resumed run missed the evaluation at its last iteration.

        Args:
            past: metrics.json lines of that run.
        """
        done = self.trainer.start_iter
        if done == 0 or not self.due(done):
            return False
        return not has_results(past, done - 1)

    def due(self, done: int) -> bool:
        """Tell whether an evaluation follows after `done` iterations."""
        return done == self.trainer.max_iter or (self._period > 0 and done % self._period == 0)

    def _run(self) -> None:
        with preserved_random_state():
            results = flatten_results_dict(self._evaluate() or {})
        results = comm.all_gather(results)[0]
        scalars = {name: float(value) for name, value in results.items() if isinstance(value, int | float)}
        self.trainer.storage.put_scalars(**scalars, smoothing_hint=False)
        self.trainer.evaluated_at = self.trainer.storage.iter
        if self._metric:
            self._compare(scalars)

    def _compare(self, scalars: dict[str, float]) -> None:
        if self._metric not in scalars:
            available = ", ".join(sorted(scalars)) or "none"
            raise InputError(f"TEST.BEST_METRIC {self._metric!r} is not reported; available: {available}")
        value = scalars[self._metric]
        best = max([*self._values, self.best.value if self.best else -math.inf])
        self._values.append(_comparable(value))
        since_best = len(self._values) - 1 - self._values.index(max(self._values))
        if not math.isfinite(value):
            logger.warning("%s is %s, not a finite score: no best model is saved", self._metric, value)
        elif value > best:
            logger.info("%s %.4f is the best so far", self._metric, value)
            self.trainer.save_checkpoint("model_best")
            self.best = Best(self._metric, value, self.trainer.storage.iter)
            if comm.is_main_process():
                write_best(self.trainer.cfg.OUTPUT_DIR, self.best, scalars)
        else:
            logger.info("%s %.4f; best %.4f, %s", self._metric, value, best, self._when(since_best))
        if 0 < self._patience <= since_best:
            self.trainer.stop(f"{self._metric} has not improved in {since_best} evaluations")

    def _when(self, evaluations: int) -> str:
        if self.best and not (evaluations and self.best.iteration < self.trainer.storage.iter):
            return f"after iteration {self.best.iteration} of the run before"
        return f"{evaluations} evaluations ago"


def _comparable(value: float) -> float:
    """Return the value, or minus infinity for NaN and infinities (NaN: no labels)."""
    return value if math.isfinite(value) else -math.inf


class WriterHook(HookBase):
    """Hook that calls the trainer's writers every `period` iterations, after evaluations and at the end.

    A resumed run also writes the line of its checkpoint's iteration, if the run before was killed too early.
    Where `period` iterations take long, a first line comes earlier, on the screen only. Files removed during
    the training are created again.
    """

    def __init__(self, period: int, images_per_iteration: int = 1, loading_workers: int = 0):
        self._period = period
        self._images = images_per_iteration
        self._data_wait = DataWaitWarning(loading_workers)
        self._writers: Sequence[EventWriter] = ()
        self._keeps_metrics = False
        self._evaluated_at: int | None = None
        self._silent = True
        self._last_end = self._first_end = 0.0

    def before_train(self) -> None:
        self._writers = self.trainer.build_writers() if comm.is_main_process() else ()
        # A subclass of the trainer may have other writers.
        self._keeps_metrics = self._metrics_file.exists()
        self._write_if(self.trainer.lacks_record, self.trainer.start_iter - 1)
        self._silent, self._last_end = bool(self._writers), time.monotonic()

    def after_step(self) -> None:
        self._write_if(self.due(self.trainer.iter + 1), self.trainer.iter)
        if self._silent:
            self._first_line()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()
            writer.close()

    def due(self, done: int) -> bool:
        """Tell whether a line is written after `done` iterations, with or without evaluation."""
        return done % self._period == 0 or done == self.trainer.max_iter

    @property
    def _metrics_file(self) -> Path:
        return Path(self.trainer.cfg.OUTPUT_DIR, "metrics.json")

    def _write_if(self, due: bool, iteration: int) -> None:
        if not due and self.trainer.evaluated_at == self._evaluated_at:
            return
        self._evaluated_at = self.trainer.evaluated_at
        self._silent = False
        if self._writers:
            self._restore_files()
            put_speed(self.trainer.storage, iteration, self.trainer.max_iter, self._images)
            self._data_wait.check(self.trainer.storage)
        for writer in self._writers:
            writer.write()

    def _first_line(self) -> None:
        """Log a line if the first regular one would come too late after the first iteration."""
        now = time.monotonic()
        self._first_end = self._first_end or now
        if now + (now - self._last_end) - self._first_end > FIRST_LINE:
            self._silent = False
            losses = self.trainer.latest_losses()
            seconds, waited = now - self._last_end, losses.pop("data_time")
            fields = [f"iter: {losses.pop('iteration')}/{self.trainer.max_iter}", *loss_fields(losses)]
            fields += [f"time: {seconds:.4f}", f"data_time: {waited:.4f}"]
            log_fields(logger, fields + ["(process 0)"] * (comm.get_world_size() > 1))
        self._last_end = now

    def _restore_files(self) -> None:
        if not self._keeps_metrics or self._metrics_file.exists():
            return
        folder = self._metrics_file.parent
        self.trainer.renew_claim()
        for writer in self._writers:
            writer.close()
        write_text(folder / "config.yaml", saved_config(self.trainer.cfg))
        self._writers = self.trainer.build_writers()
        logger.warning(
            "OUTPUT_DIR %s was removed during the training and is created again; its old contents are lost, "
            "records and checkpoints continue from iteration %d",
            folder,
            self.trainer.iter,
        )
