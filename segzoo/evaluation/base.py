"""What the evaluators share: scoring in the background, order, ranks, and errors that name the image."""

import itertools
import logging
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from segzoo.utils.errors import InputError

from .options import EvaluationOptions

logger = logging.getLogger(__name__)

#: Of an evaluator: predictions of so many bytes wait to be scored, and then the caller waits.
WAITING_BYTES = 1 << 29


class Waiting(NamedTuple):
    """An image that is being scored, or waits for it; `size`: bytes of its prediction."""

    file_name: str
    future: Future
    size: int


class BackgroundEvaluator(DatasetEvaluator):
    """Scores each image in a small thread pool while the model computes the next one.

    A subclass implements three steps: `take` (in the caller's thread: the prediction, off the device),
    `score` (in a worker thread: one image to one small record) and `summarize` (on the main process: all
    records to metrics). The result depends neither on the number of threads or ranks nor on the order in
    which images come: records are brought into the dataset's order.

    Where scoring is slower than the model, predictions wait, up to WAITING_BYTES; then `process` waits.

    Args:
        dataset_name: its metadata offers the classes and the callables that load ground truth.
        output_dir: where files are written; None for none.
        save_predictions: write each prediction below `output_dir`.
        workers: scoring threads; 0 scores in `process` itself.
        distributed: gather the records of all ranks on the main process.

    Raises:
        InputError: from `process` or `evaluate`, when a prediction or its ground truth is wrong.
    """

    #: The key of the model's output and of the result.
    task_key = ""

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        save_predictions: bool = False,
        workers: int = 2,
        distributed: bool = True,
    ):
        if save_predictions and output_dir is None:
            raise InputError("save_predictions needs an output_dir to write to, found None")
        self.dataset_name = dataset_name
        self.metadata = MetadataCatalog.get(dataset_name)
        self.class_names = list(self.metadata.classes)
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.save_predictions = save_predictions
        self.prediction_names = prediction_names(DatasetCatalog.get(dataset_name)) if save_predictions else {}
        self.workers = workers
        self.distributed = distributed
        self._pool: ThreadPoolExecutor | None = None
        self.reset()

    @classmethod
    def from_options(cls, options: EvaluationOptions) -> dict[str, Any]:
        """Return the constructor's keyword arguments; a subclass with arguments of its own adds them."""
        return {
            "save_predictions": options.save_predictions,
            "workers": options.workers,
            "distributed": options.distributed,
        }

    def protocol(self) -> Mapping[str, Any]:
        """Return what can change these numbers and is this evaluator's own, as JSON has it; {} for nothing.

        results.json keeps it, and `compare_results` refuses numbers whose evaluators differ in it.
        """
        return {}

    @property
    def folder(self) -> Path:
        """Where files are written, of an evaluator that writes some."""
        assert self.output_dir is not None
        return self.output_dir

    def reset(self) -> None:
        self._close(wait=False)
        self._pending: deque[Waiting] = deque()
        self._waiting_bytes = 0
        self._seen: set[str] = set()
        self.records: list[tuple[str, Any]] = []
        self.image_count = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Takes a batch as Detectron2 does: the model's inputs (dataset dicts) and its outputs."""
        for dataset_dict, output in zip(inputs, outputs, strict=True):
            file_name = dataset_dict["file_name"]
            if file_name in self._seen:
                continue  # a sampler that pads the last batch repeats images
            self._seen.add(file_name)
            prediction = self.take(output, file_name)
            # The worker needs the label files, not the image.
            facts = {key: value for key, value in dataset_dict.items() if not isinstance(value, torch.Tensor)}
            self._submit(file_name, facts, prediction)

    def flush(self) -> None:
        """Waits until every image that was taken is scored and kept."""
        while self._pending:
            self._collect()

    def evaluate(self) -> dict | None:
        """Returns {task_key: {metric: value}} on the main process, None on the others."""
        self.flush()
        self._close(wait=True)
        parts = [self.partial()]
        if self.distributed and comm.get_world_size() > 1:
            comm.synchronize()
            parts = comm.gather(parts[0])
            if not comm.is_main_process():
                return None
        merged = self.merge(parts)
        if not self.image_count:
            raise InputError(f"{self.dataset_name}: no image was evaluated; is the dataset empty?")
        return {self.task_key: self.summarize(merged)}

    def take(self, output: dict, file_name: str) -> Any:
        """Picks the prediction out of a model's output and brings it to the CPU."""
        raise NotImplementedError

    def score(self, dataset_dict: dict, prediction: Any) -> Any:
        """Compares a prediction with the ground truth. Runs in a thread: changes nothing of `self`."""
        raise NotImplementedError

    def keep(self, file_name: str, record: Any) -> None:
        """Stores the record of an image; called in the order of `process`."""
        self.records.append((file_name, record))

    def partial(self) -> Any:
        """What this rank sends to the main process."""
        return self.records

    def merge(self, parts: Iterable) -> Any:
        """Joins the records of ranks or shards: each image once, in the dataset's order.

        Sets `image_count`. `parts` is gone through once: those of shards are read from files meanwhile.
        """
        records: dict[str, Any] = {}
        for file_name, record in itertools.chain(*parts):
            records.setdefault(file_name, record)
        # Sums of floats depend on their order: restore the dataset's, whoever had which image when.
        files = (entry["file_name"] for entry in DatasetCatalog.get(self.dataset_name))
        position = {file_name: index for index, file_name in enumerate(files)}
        self.image_count = len(records)
        return [records[name] for name in sorted(records, key=lambda name: position.get(name, len(position)))]

    def summarize(self, merged: Any) -> dict:
        """Turns what `merge` returned into metrics, and logs them. Only on the main process."""
        raise NotImplementedError

    def _submit(self, file_name: str, dataset_dict: dict, prediction: Any) -> None:
        if self.workers == 0:
            future: Future = Future()
            try:
                future.set_result(self.score(dataset_dict, prediction))
            except Exception as error:
                future.set_exception(error)
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix=type(self).__name__)
            future = self._pool.submit(self.score, dataset_dict, prediction)
        waiting = Waiting(file_name, future, held_bytes(prediction))
        self._pending.append(waiting)
        self._waiting_bytes += waiting.size
        while self._pending and (self._pending[0].future.done() or self._must_wait()):
            self._collect()

    def _must_wait(self) -> bool:
        # Each thread may have one, however large: logits of 150 classes are.
        return len(self._pending) > self.workers and self._waiting_bytes > WAITING_BYTES

    def _collect(self) -> None:
        file_name, future, size = self._pending.popleft()
        self._waiting_bytes -= size
        try:
            self.keep(file_name, future.result())
        except InputError:
            raise
        except Exception as error:
            raise RuntimeError(f"{file_name}: scoring failed with {type(error).__name__}: {error}") from error

    def _close(self, wait: bool) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=wait, cancel_futures=not wait)
            self._pool = None


def prediction_names(dataset_dicts: list[dict]) -> dict[str, str]:
    """Names the prediction of each image: its path without suffix, below the folder that all images share.

    Returns:
        {file_name: "stem" or "folder/stem"}, unique, the same on every rank and when a folder is re-scored.

    Raises:
        InputError: two images differ in nothing but their suffix.
    """
    parents = [Path(entry["file_name"]).absolute().parent for entry in dataset_dicts]
    if not parents:
        return {}
    common = set(parents[0].parents) | {parents[0]}
    for parent in set(parents):
        common &= set(parent.parents) | {parent}
    shared = max(common, key=lambda folder: len(folder.parts))
    names: dict[str, str] = {}
    owner: dict[str, str] = {}
    for entry in dataset_dicts:
        file_name = entry["file_name"]
        name = Path(file_name).absolute().relative_to(shared).with_suffix("").as_posix()
        if owner.setdefault(name, file_name) != file_name:
            raise InputError(
                f"{file_name} and {owner[name]} would both be saved as {name}.png; rename one of them"
            )
        names[file_name] = name
    return names


def check_same_size(file_name: str, prediction: np.ndarray, ground_truth: np.ndarray) -> None:
    """Raises InputError unless both maps are (H, W) of the same image."""
    if prediction.shape != ground_truth.shape:
        raise InputError(
            f"{file_name}: the prediction is {_size(prediction)} but the ground truth {_size(ground_truth)} "
            "(height x width); predictions must have the size of the original image"
        )


def to_numpy(values: torch.Tensor | np.ndarray) -> np.ndarray:
    """A numpy view of a tensor (copied only off a device), or the array itself."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def held_bytes(prediction: Any) -> int:
    """Bytes of the arrays and tensors in what `take` returned: one of them, or a tuple."""
    if isinstance(prediction, tuple):
        return sum(held_bytes(part) for part in prediction)
    return int(getattr(prediction, "nbytes", 0))


def _size(array: np.ndarray) -> str:
    return " x ".join(str(side) for side in array.shape)


def class_table(names: Sequence[str], columns: Sequence[str], rows: Iterable[Sequence[float]]) -> str:
    """A pipe table of the classes that have numbers, and a line that counts those that do not.

    Args:
        names: of the K classes.
        columns: what the numbers are.
        rows: K rows of len(columns) numbers; a class that does not occur has NaN in all.
    """
    present = [
        [name, *row] for name, row in zip(names, rows, strict=True) if not all(math.isnan(v) for v in row)
    ]
    table = tabulate(present, ["class", *columns], tablefmt="pipe", floatfmt=".2f")
    absent = len(names) - len(present)
    note = f"\n({absent} classes that do not occur are left out)" if absent else ""
    return table + note
