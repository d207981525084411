"""The progress line of a training: losses, time left, speed, and time waiting for data."""

import datetime
import logging
import resource
import time
from collections.abc import Mapping

import numpy as np
import torch
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

from segzoo.utils.logging import log_fields
from segzoo.utils.loss_names import loss_terms
from segzoo.utils.threads import free_processors

from .metrics_log import WINDOW

logger = logging.getLogger(__name__)

# Share of an iteration spent waiting for data above which a warning is logged.
DATA_BOUND = 0.3


def loss_fields(losses: Mapping[str, float]) -> list[str]:
    """Return total_loss and its terms as fields of a log line."""
    terms = {term: sum(losses[name] for name in names) for term, names in loss_terms(losses).items()}
    total = losses.get("total_loss", sum(terms.values()))
    return [f"{name}: {value:.4g}" for name, value in {"total_loss": total, **terms}.items()]


class ProgressPrinter(EventWriter):
    """Writer of a log line: time left, iteration, losses (means of 20), times, learning rate, memory.

    Means add up as the losses do; metrics.json and TensorBoard have the medians.
    """

    def __init__(self, max_iter: int):
        self._max_iter = max_iter
        self._shown = -1

    def write(self) -> None:
        storage = get_event_storage()
        latest = {name: value for name, (value, _) in storage.latest().items()}
        _, iteration = storage.latest().get("total_loss", (0.0, -1))
        if iteration <= self._shown:
            return
        self._shown = iteration
        parts = [f"iter: {iteration}/{self._max_iter}", *loss_fields(recent_losses(storage))]
        if "eta_seconds" in latest:
            parts.insert(0, f"eta: {datetime.timedelta(seconds=int(latest['eta_seconds']))}")
            seconds, waited = recent_times(storage)
            bound = " (data-bound)" if waited > DATA_BOUND * seconds else ""
            parts += [
                f"time: {seconds:.4f}",
                f"data_time: {waited:.4f}{bound}",
                f"compute_time: {latest['compute_time']:.4f}",
                f"img/s: {latest['images_per_second']:.1f}",
            ]
        if "lr" in latest:
            parts.append(f"lr: {latest['lr']:.5g}")
        parts.append(f"max_mem: {latest.get('max_mem', peak_memory_mib()):.0f}M")
        log_fields(logger, parts)


def recent_losses(storage: EventStorage) -> dict[str, float]:
    """Return the mean of total_loss over the last iterations, and the contribution of each loss."""
    counted = {iteration for _, iteration in storage.history("total_loss").values()[-WINDOW:]}
    return {
        name: sum(value for value, iteration in history.values()[-WINDOW:] if iteration in counted)
        / len(counted)
        for name, history in storage.histories().items()
        if name == "total_loss" or loss_terms([name])
    }


def recent_times(storage: EventStorage) -> tuple[float, float]:
    """Return seconds per iteration, and those spent waiting for data: means over the last iterations.

    Means, not medians: with n data-loader workers only one iteration in n may be slow. Both are over the same
    iterations: the timer leaves out a run's first ones, in which the workers start, also after a resume.
    """
    timed = storage.history("time").values()[-WINDOW:]
    waits = {iteration: wait for wait, iteration in storage.history("data_time").values()[-2 * WINDOW :]}
    seconds = float(np.mean([second for second, _ in timed]))
    waited = float(np.mean([waits.get(iteration, 0.0) for _, iteration in timed]))
    return seconds, min(waited, seconds)


def put_speed(storage: EventStorage, iteration: int, max_iter: int, images_per_iteration: int) -> None:
    """Put the speed over the last iterations into the storage, unsmoothed, for all writers.

    eta_seconds: to the end of the training, without evaluations; compute_time: seconds per iteration, without
    waiting for data; images_per_second; max_mem: MiB. The timer leaves out the first, slower iterations, in
    which there is only max_mem.
    """
    scalars = {"max_mem": peak_memory_mib()}
    if "time" in storage.histories():
        seconds, waited = recent_times(storage)
        scalars |= {
            "eta_seconds": storage.history("time").avg(1000) * (max_iter - iteration - 1),
            "compute_time": seconds - waited,
            "images_per_second": images_per_iteration / max(seconds, 1e-9),
        }
    now, storage.iter = storage.iter, iteration
    storage.put_scalars(**scalars, smoothing_hint=False)
    storage.iter = now


class DataWaitWarning:
    """A warning that a training waits for data, repeated only if the waiting had ended in between."""

    def __init__(self, workers: int):
        self._workers = workers
        self._warned = False

    def check(self, storage: EventStorage) -> None:
        """Check the last iterations, if there are enough of them."""
        timed = storage.histories().get("time")
        # The first iterations wait for the workers to start.
        if timed is None or len(timed.values()) < WINDOW:
            return
        seconds, waited = recent_times(storage)
        share = waited / max(seconds, 1e-9)
        if share > DATA_BOUND and not self._warned:
            self._warned = True
            logger.warning(
                "Data loading takes %.0f %% of each iteration: %s",
                100 * share,
                data_loading_advice(self._workers),
            )
        elif share < DATA_BOUND / 2:
            self._warned = False


def peak_memory_mib() -> float:
    """Return the peak memory so far in MiB: tensors on the GPU, or this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def data_loading_advice(workers: int) -> str:
    """Return advice for a model that waits for its images; `workers`: number of data-loader workers."""
    processors = free_processors()
    if workers < processors:
        return f"raise DATALOADER.NUM_WORKERS (now {workers}; {processors} processors here)"
    return (
        f"DATALOADER.NUM_WORKERS is {workers} with {processors} processors here: give the job more of them, "
        "or store smaller images on a faster disk"
    )


class Stopwatch:
    """Seconds spent on named parts of a loop."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, part: str) -> None:
        """Add the time since the previous call to `part`."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now
