"""Losses and scalars of a training, and a metrics.json without gaps or duplicates after a resume."""

import json
import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from detectron2.utils import comm
from detectron2.utils.events import EventStorage, TensorboardXWriter

from segzoo.utils.files import move_aside, write_text

logger = logging.getLogger(__name__)

_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.")
# Scalars are smoothed by the median of this many iterations, as in Detectron2.
WINDOW = 20


def mean_losses(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average losses by name over micro-batches or processes.

    A loss missing in some, because nothing in their images needs it, counts as 0 there: the gradient, too, is
    a mean over all.
    """
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) / len(parts) for name in names}


class LossRecorder:
    """Losses of each iteration, whose mean over processes goes into the event storage.

    A single process puts them there at once; several exchange them every `period` iterations, in one message.

    Attributes:
        latest: losses, "data_time" and "iteration" that this process recorded last.
    """

    def __init__(self, storage: EventStorage, period: int):
        self._storage = storage
        self._period = period if comm.get_world_size() > 1 else 1
        self._pending: list[dict[str, float]] = []
        self.latest: dict[str, float] = {}

    def add(self, iteration: int, losses: dict[str, float], data_time: float) -> None:
        """Record the losses of this process; every process has to call it with the same iterations."""
        self.latest = {"iteration": iteration, "data_time": data_time, **losses}
        self._pending.append(self.latest)
        if (iteration + 1) % self._period == 0:
            self.flush()

    def flush(self) -> None:
        """Put pending losses into the storage of the main process; every process has to call it."""
        pending, self._pending = self._pending, []
        now = self._storage.iter
        for records in zip(*comm.gather(pending), strict=True):
            self._storage.iter = records[0]["iteration"]
            means = mean_losses(records)
            del means["iteration"], means["data_time"]
            self._storage.put_scalar("data_time", max(record["data_time"] for record in records))
            self._storage.put_scalar("total_loss", sum(means.values()))
            self._storage.put_scalars(**{name: mean for name, mean in means.items() if name != "total_loss"})
        self._storage.iter = now


def has_results(lines: Iterable[Mapping], iteration: int) -> bool:
    """Tell whether lines of metrics.json hold evaluation results of an iteration (sem_seg/mIoU, ...)."""
    return any("/" in name for line in lines if line["iteration"] == iteration for name in line)


def recent_scalars(storage: EventStorage) -> dict[str, list[list[float]]]:
    """Return the last values of every smoothed scalar as [value, iteration], to smooth alike on resuming."""
    smoothed = [name for name, hint in storage.smoothing_hints().items() if hint]
    return {name: [list(entry) for entry in storage.history(name).values()[-WINDOW:]] for name in smoothed}


def restore_recent_scalars(storage: EventStorage, recent: dict[str, list[list[float]]]) -> None:
    """Restore what `recent_scalars` returned, without making the writers write it again."""
    for name, entries in recent.items():
        for value, iteration in entries:
            storage.histories()[name].update(value, iteration)


def latest_scalars(storage: EventStorage) -> dict[str, list]:
    """Return the scalars of the current iteration as [value, whether it is smoothed].

    They belong in a checkpoint: it is saved before the writers write them, and a run killed in between has to
    write them on resuming.
    """
    return {
        name: [value, storage.smoothing_hints()[name]]
        for name, (value, iteration) in storage.latest().items()
        if iteration == storage.iter
    }


def restore_latest_scalars(storage: EventStorage, latest: dict[str, list], iteration: int) -> None:
    """Restore what `latest_scalars` returned as scalars of `iteration`, for the writers to write."""
    for name, (value, smoothed) in latest.items():
        storage.latest()[name] = (value, iteration)
        storage.smoothing_hints()[name] = smoothed
        # The history of a smoothed one is restored by `restore_recent_scalars`.
        if not smoothed:
            storage.histories()[name].update(value, iteration)


class TensorBoardWriter(TensorboardXWriter):
    """Detectron2's TensorBoard writer that flushes in `write`: a kill loses no events.

    By default events stay in memory for up to two minutes, in which a checkpoint may have been saved.
    """

    def write(self) -> None:
        super().write()
        self._writer.flush()


def wait_until_event_files_sort(folder: Path) -> None:
    """Wait until a new TensorBoard file sorts after those in `folder`: their names count whole seconds.

    TensorBoard reads them in that order, and only so does the purge step of a file apply to its predecessors.
    It waits only where a training is resumed within a second of its last start, as in one Python process, and
    at most a second: another machine's clock that runs ahead must not hold up a training.
    """
    seconds = [int(match[1]) for path in folder.glob("events.*") if (match := _EVENT_FILE.match(path.name))]
    newest, patience = max(seconds, default=0), time.monotonic() + 1.1
    while int(time.time()) <= newest and time.monotonic() < patience:
        time.sleep(0.02)


def continue_metrics(path: Path, start_iteration: int) -> list[dict]:
    """Prepare metrics.json for a run that begins at `start_iteration`; return the lines before it.

    Lines from `start_iteration` on, which the run will write again, and a line truncated by a crash are
    removed. A run that begins at 0 renames the file of an earlier one to metrics_<n>.json.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return []
    if start_iteration == 0:
        move_aside(path, "an earlier run")
        return []
    return drop_metrics(path, start_iteration)


def drop_metrics(path: Path, iteration: int) -> list[dict]:
    """Remove the lines from `iteration` on from metrics.json, if it exists; return the remaining ones."""
    kept = [line for line in read_metrics(path) if line["iteration"] < iteration]
    if path.is_file():
        write_text(path, "".join(json.dumps(line, sort_keys=True) + "\n" for line in kept))
    return kept


def read_metrics(path: Path) -> list[dict]:
    """Return the lines of metrics.json except one truncated by a crash; none if there is no such file."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "iteration" in line:
            lines.append(line)
    return lines
