"""What a training tells: the progress line, and a metrics.json without gaps or doubles after a resume."""

import datetime
import json
import logging
import os
import re
import time
from pathlib import Path

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

logger = logging.getLogger(__name__)

# Losses of the earlier decoder layers (loss_ce_0, ...): for metrics.json and TensorBoard only.
_AUXILIARY = re.compile(r"_\d+$")
_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.")
# Scalars are smoothed by the median of this many iterations, as in Detectron2.
WINDOW = 20


class LossRecorder:
    """Collects the losses of each iteration and puts their mean over processes into the event storage.

    One process puts them at once; several exchange them every `period` iterations, with one message.
    """

    def __init__(self, storage: EventStorage, period: int):
        self._storage = storage
        self._period = period if comm.get_world_size() > 1 else 1
        self._pending: list[dict[str, float]] = []

    def add(self, iteration: int, losses: dict[str, float], data_time: float) -> None:
        """Records the losses of this process; every process has to call it with the same iterations."""
        self._pending.append({"iteration": iteration, "data_time": data_time, **losses})
        if (iteration + 1) % self._period == 0:
            self.flush()

    def flush(self) -> None:
        """Puts what is pending into the storage of the main process; every process has to call it."""
        pending, self._pending = self._pending, []
        now = self._storage.iter
        for records in zip(*comm.gather(pending), strict=True):
            self._storage.iter = records[0]["iteration"]
            names = [name for name in records[0] if name not in ("iteration", "data_time")]
            means = {name: float(np.mean([record[name] for record in records])) for name in names}
            self._storage.put_scalar("data_time", max(record["data_time"] for record in records))
            self._storage.put_scalar("total_loss", sum(means.values()))
            self._storage.put_scalars(**{name: mean for name, mean in means.items() if name != "total_loss"})
        self._storage.iter = now


class ProgressPrinter(EventWriter):
    """Logs a line: time left, iteration, losses (median of 20), speed, data time, learning rate, memory."""

    def __init__(self, max_iter: int, images_per_iteration: int):
        self._max_iter = max_iter
        self._images = images_per_iteration
        self._shown = -1

    def write(self) -> None:
        storage = get_event_storage()
        _, iteration = storage.latest().get("total_loss", (0.0, -1))
        if iteration <= self._shown:
            return
        self._shown = iteration
        histories = storage.histories()
        losses = [
            f"{name}: {history.median(WINDOW):.4g}"
            for name, history in histories.items()
            if "loss" in name and not _AUXILIARY.search(name)
        ]
        parts = [f"iter: {iteration}/{self._max_iter}", *losses]
        # The timer leaves out the first iterations, which are slower than the rest.
        if "time" in histories:
            seconds = histories["time"].median(1000)
            left = datetime.timedelta(seconds=int(seconds * (self._max_iter - iteration - 1)))
            waited = histories["data_time"].avg(WINDOW)
            bound = " (data-bound)" if waited > 0.5 * seconds else ""
            parts.insert(0, f"eta: {left}")
            parts += [
                f"time: {seconds:.4f}",
                f"data_time: {waited:.4f}{bound}",
                f"img/s: {self._images / max(seconds, 1e-9):.1f}",
            ]
        if "lr" in histories:
            parts.append(f"lr: {histories['lr'].latest():.5g}")
        parts.append(f"max_mem: {peak_memory_mib():.0f}M")
        logger.info("  ".join(parts))


def peak_memory_mib() -> float:
    """The most memory in use so far, in MiB: tensors on the GPU, or this process (0 where unknown)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def continue_metrics(path: Path, start_iteration: int) -> list[dict]:
    """Prepares metrics.json for a run that begins at `start_iteration`; returns the lines it goes on from.

    Lines from `start_iteration` on, which the run will write again, and a line cut short by a crash are
    taken out. A run that begins at 0 puts the file of an earlier one aside as metrics_<n>.json.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return []
    if start_iteration == 0:
        number = 1
        while (aside := path.with_name(f"{path.stem}_{number}.json")).exists():
            number += 1
        path.rename(aside)
        logger.info("%s of an earlier run is now %s", path, aside.name)
        return []
    kept = [line for line in read_metrics(path) if line["iteration"] < start_iteration]
    unfinished = path.with_suffix(".part")
    with unfinished.open("w") as file:
        file.writelines(json.dumps(line, sort_keys=True) + "\n" for line in kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    return kept


def let_event_files_sort(folder: Path) -> None:
    """Waits until a new TensorBoard file sorts after those in `folder`: their names count whole seconds.

    TensorBoard reads them in that order, and what a file says about its predecessors only then is understood.
    A second at most: a clock that runs ahead elsewhere must not hold up a training.
    """
    seconds = [int(match[1]) for path in folder.glob("events.*") if (match := _EVENT_FILE.match(path.name))]
    newest, patience = max(seconds, default=0), time.monotonic() + 1.1
    while int(time.time()) <= newest and time.monotonic() < patience:
        time.sleep(0.02)


def read_metrics(path: Path) -> list[dict]:
    """The lines of metrics.json but for one cut short by a crash; none if there is no such file."""
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "iteration" in line:
            lines.append(line)
    return lines


def recent_scalars(storage: EventStorage) -> dict[str, list[list[float]]]:
    """The last values of every smoothed scalar as [value, iteration], so that a resumed run smooths alike."""
    smoothed = [name for name, hint in storage.smoothing_hints().items() if hint]
    return {name: [list(entry) for entry in storage.history(name).values()[-WINDOW:]] for name in smoothed}


def restore_recent_scalars(storage: EventStorage, recent: dict[str, list[list[float]]]) -> None:
    """Puts back what `recent_scalars` returned, without making it news that the writers would write again."""
    for name, entries in recent.items():
        for value, iteration in entries:
            storage.histories()[name].update(value, iteration)


class Stopwatch:
    """Adds up seconds spent on named parts of a loop."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, part: str) -> None:
        """Books the time since the previous call to `part`."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now
