"""What a training records: losses and scalars, and a metrics.json without gaps or doubles after a resume."""

import json
import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from detectron2.utils import comm
from detectron2.utils.events import EventStorage, TensorboardXWriter

from segzoo.utils.files import put_aside, write_text

logger = logging.getLogger(__name__)

_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.")
# Scalars are smoothed by the median of this many iterations, as in Detectron2.
WINDOW = 20


def mean_losses(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average losses by name over micro-batches or processes.

    A loss that some have not, because nothing in their images needs it, is 0 there: the gradient, too, is a
    mean over all.
    """
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) / len(parts) for name in names}


class LossRecorder:
    """Collects the losses of each iteration and puts their mean over processes into the event storage.

    One process puts them at once; several exchange them every `period` iterations, with one message.

    Attributes:
        latest: losses, "data_time" and "iteration" that this process has recorded last.
    """

    def __init__(self, storage: EventStorage, period: int):
        self._storage = storage
        self._period = period if comm.get_world_size() > 1 else 1
        self._pending: list[dict[str, float]] = []
        self.latest: dict[str, float] = {}

    def add(self, iteration: int, losses: dict[str, float], data_time: float) -> None:
        """Records the losses of this process; every process has to call it with the same iterations."""
        self.latest = {"iteration": iteration, "data_time": data_time, **losses}
        self._pending.append(self.latest)
        if (iteration + 1) % self._period == 0:
            self.flush()

    def flush(self) -> None:
        """Puts what is pending into the storage of the main process; every process has to call it."""
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
    """The last values of every smoothed scalar as [value, iteration], so that a resumed run smooths alike."""
    smoothed = [name for name, hint in storage.smoothing_hints().items() if hint]
    return {name: [list(entry) for entry in storage.history(name).values()[-WINDOW:]] for name in smoothed}


def restore_recent_scalars(storage: EventStorage, recent: dict[str, list[list[float]]]) -> None:
    """Puts back what `recent_scalars` returned, without making it news that the writers would write again."""
    for name, entries in recent.items():
        for value, iteration in entries:
            storage.histories()[name].update(value, iteration)


def latest_scalars(storage: EventStorage) -> dict[str, list]:
    """The scalars of the current iteration as [value, whether it is smoothed].

    They belong into a checkpoint: it is saved before the writers write them, and a run that is killed in
    between has to write them when it goes on.
    """
    return {
        name: [value, storage.smoothing_hints()[name]]
        for name, (value, iteration) in storage.latest().items()
        if iteration == storage.iter
    }


def restore_latest_scalars(storage: EventStorage, latest: dict[str, list], iteration: int) -> None:
    """Makes what `latest_scalars` returned news of `iteration`, for the writers to write."""
    for name, (value, smoothed) in latest.items():
        storage.latest()[name] = (value, iteration)
        storage.smoothing_hints()[name] = smoothed
        # That of a smoothed one is restored by `restore_recent_scalars`.
        if not smoothed:
            storage.histories()[name].update(value, iteration)


class TensorBoardWriter(TensorboardXWriter):
    """Detectron2's, whose events are on disk when `write` returns: a kill loses none of them.

    By itself TensorBoard keeps them for two minutes, in which there may have been a checkpoint.
    """

    def write(self) -> None:
        super().write()
        self._writer.flush()


def wait_until_event_files_sort(folder: Path) -> None:
    """Waits until a new TensorBoard file sorts after those in `folder`: their names count whole seconds.

    TensorBoard reads them in that order, and what a file says about its predecessors only then is understood.
    It waits only where a training is resumed within a second of its last start, as in one Python process, and
    a second at most: a clock that runs ahead elsewhere must not hold up a training.
    """
    seconds = [int(match[1]) for path in folder.glob("events.*") if (match := _EVENT_FILE.match(path.name))]
    newest, patience = max(seconds, default=0), time.monotonic() + 1.1
    while int(time.time()) <= newest and time.monotonic() < patience:
        time.sleep(0.02)


def continue_metrics(path: Path, start_iteration: int) -> list[dict]:
    """Prepares metrics.json for a run that begins at `start_iteration`; returns the lines it goes on from.

    Lines from `start_iteration` on, which the run will write again, and a line cut short by a crash are
    taken out. A run that begins at 0 puts the file of an earlier one aside as metrics_<n>.json.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return []
    if start_iteration == 0:
        put_aside(path, "an earlier run")
        return []
    return drop_metrics(path, start_iteration)


def drop_metrics(path: Path, iteration: int) -> list[dict]:
    """Takes the lines from `iteration` on out of metrics.json, if it is there; returns those that stay."""
    kept = [line for line in read_metrics(path) if line["iteration"] < iteration]
    if path.is_file():
        write_text(path, "".join(json.dumps(line, sort_keys=True) + "\n" for line in kept))
    return kept


def read_metrics(path: Path) -> list[dict]:
    """The lines of metrics.json but for one cut short by a crash; none if there is no such file."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "iteration" in line:
            lines.append(line)
    return lines
