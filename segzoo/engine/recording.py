"""What a training tells: the progress line, and a metrics.json without gaps or doubles after a resume."""

import datetime
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter, TensorboardXWriter, get_event_storage

from segzoo.evaluation.files import put_aside
from segzoo.threads import free_processors

logger = logging.getLogger(__name__)

# Losses of the earlier decoder layers: loss_ce_0, ... beside loss_ce of the last one.
_OF_LAYER = re.compile(r"_\d+$")
# What a line that is too wide for its terminal does without first.
_DISPENSABLE = ("compute_time:", "max_mem:", "data_time:", "time:", "img/s:", "lr:")
_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.")
# Scalars are smoothed by the median of this many iterations, as in Detectron2.
WINDOW = 20
# The share of an iteration from which on waiting for data is worth a warning.
DATA_BOUND = 0.3


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
            names = [name for name in records[0] if name not in ("iteration", "data_time")]
            means = {name: float(np.mean([record[name] for record in records])) for name in names}
            self._storage.put_scalar("data_time", max(record["data_time"] for record in records))
            self._storage.put_scalar("total_loss", sum(means.values()))
            self._storage.put_scalars(**{name: mean for name, mean in means.items() if name != "total_loss"})
        self._storage.iter = now


def loss_terms(names: Iterable[str]) -> dict[str, list[str]]:
    """The losses that add up to total_loss, by what they are: those of all decoder layers are one term.

    Returns:
        {"loss_ce (3 layers)": ["loss_ce", "loss_ce_0", "loss_ce_1"], "loss_dice": ["loss_dice"]}, in the
        order of `names`, of which those that are no losses are left out.
    """
    terms: dict[str, list[str]] = {}
    for name in names:
        if "loss" in name and name != "total_loss" and "/" not in name:
            terms.setdefault(_OF_LAYER.sub("", name), []).append(name)
    return {
        f"{term} ({len(parts)} layers)" if len(parts) > 1 else term: parts for term, parts in terms.items()
    }


def loss_fields(losses: Mapping[str, float]) -> list[str]:
    """total_loss and its terms, as the parts of a line."""
    terms = {term: sum(losses[name] for name in names) for term, names in loss_terms(losses).items()}
    total = losses.get("total_loss", sum(terms.values()))
    return [f"{name}: {value:.4g}" for name, value in {"total_loss": total, **terms}.items()]


def log_fields(fields: Sequence[str]) -> None:
    """Logs a line of parts; a terminal that is narrower shows fewer of them, or more lines."""
    logger.info("%s", "  ".join(fields), extra={"fields": tuple(fields)})


def fitted(fields: Sequence[str], width: int) -> list[str]:
    """The lines of at most `width` characters, where a part is no longer, that show parts of a line."""
    kept = list(fields)
    for start in _DISPENSABLE:
        if len("  ".join(kept)) <= width:
            break
        kept = [field for field in kept if not field.startswith(start) or field.endswith(")")]
    lines: list[str] = []
    for field in kept:
        if lines and len(lines[-1]) + 2 + len(field) <= width:
            lines[-1] += f"  {field}"
        else:
            lines.append(field)
    return lines


class ProgressPrinter(EventWriter):
    """Logs a line: time left, iteration, losses (mean of 20), where time goes, learning rate, memory.

    Means, which add up as losses do; metrics.json and TensorBoard have the medians of each.
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
        log_fields(parts)


def recent_losses(storage: EventStorage) -> dict[str, float]:
    """The mean of total_loss over the last iterations, and what each loss has contributed to it."""
    counted = {iteration for _, iteration in storage.history("total_loss").values()[-WINDOW:]}
    return {
        name: sum(value for value, iteration in history.values()[-WINDOW:] if iteration in counted)
        / len(counted)
        for name, history in storage.histories().items()
        if name == "total_loss" or loss_terms([name])
    }


class TensorBoardWriter(TensorboardXWriter):
    """Detectron2's, whose events are on disk when `write` returns: a kill loses none of them.

    By itself TensorBoard keeps them for two minutes, in which there may have been a checkpoint.
    """

    def write(self) -> None:
        super().write()
        self._writer.flush()


def recent_times(storage: EventStorage) -> tuple[float, float]:
    """Seconds per iteration, and those of them spent waiting for data: means of the last iterations.

    Means, not medians: of several loading workers each makes one iteration in so many slow. Of the same
    iterations: the timer leaves out a run's first ones, also after a resume, in which the workers start.
    """
    timed = storage.history("time").values()[-WINDOW:]
    waits = {iteration: wait for wait, iteration in storage.history("data_time").values()[-2 * WINDOW :]}
    seconds = float(np.mean([second for second, _ in timed]))
    waited = float(np.mean([waits.get(iteration, 0.0) for _, iteration in timed]))
    return seconds, min(waited, seconds)


def put_speed(storage: EventStorage, iteration: int, max_iter: int, images_per_iteration: int) -> None:
    """Puts what the last iterations tell of the speed, unsmoothed, for all writers.

    eta_seconds: to the end of the training, without evaluations; compute_time: seconds per iteration, without
    the waiting for data; images_per_second; max_mem: MiB. The timer leaves out the first iterations, which
    are slower than the rest: before them there is max_mem only.
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
    """Says once that a training waits for its data; again only after it had not done so for a while."""

    def __init__(self, workers: int):
        self._workers = workers
        self._said = False

    def check(self, storage: EventStorage) -> None:
        """Looks at the last iterations, if there are enough of them to tell."""
        timed = storage.histories().get("time")
        # The first iterations wait for the workers to start.
        if timed is None or len(timed.values()) < WINDOW:
            return
        seconds, waited = recent_times(storage)
        share = waited / max(seconds, 1e-9)
        if share > DATA_BOUND and not self._said:
            self._said = True
            logger.warning(
                "Data loading takes %.0f %% of each iteration: %s", 100 * share, more_workers(self._workers)
            )
        elif share < DATA_BOUND / 2:
            self._said = False


def peak_memory_mib() -> float:
    """The most memory in use so far, in MiB: tensors on the GPU, or this process (0 where unknown)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def more_workers(workers: int) -> str:
    """What to do where a model waits for its images, loaded by so many worker processes."""
    processors = free_processors()
    if workers < processors:
        return f"raise DATALOADER.NUM_WORKERS (now {workers}; {processors} processors here)"
    return (
        f"DATALOADER.NUM_WORKERS is {workers} with {processors} processors here: give the job more of them, "
        "or store smaller images on a faster disk"
    )


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
        unfinished = path.with_suffix(".part")
        with unfinished.open("w", encoding="utf-8") as file:
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
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "iteration" in line:
            lines.append(line)
    return lines


def has_results(lines: Iterable[Mapping], iteration: int) -> bool:
    """Whether lines of metrics.json hold results of an evaluation after an iteration, as sem_seg/mIoU."""
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
