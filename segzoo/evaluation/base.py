"""Base class of the evaluators: scoring threads, order of images, gathering over ranks, and tables."""

import itertools
import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from segzoo.utils.dataset_records import dataset_records
from segzoo.utils.errors import InputError

from .options import EvaluationOptions

logger = logging.getLogger(__name__)

#: Back-pressure of an evaluator: `process` blocks while predictions of more bytes are queued for scoring.
WAITING_BYTES = 1 << 26


class Waiting(NamedTuple):
    """An image that is queued or being scored; `size`: bytes of its prediction."""

    file_name: str
    future: Future
    size: int


class BackgroundEvaluator(DatasetEvaluator):
    """Evaluator that scores each image in a thread pool while the model computes the next one.

    A subclass implements three steps: `take` (in the caller's thread: copies the prediction to the CPU),
    `score` (in a scoring thread: turns one image into one small record) and `summarize` (on the main process:
    turns all records into metrics). The result does not depend on the number of threads or ranks or on the
    order of images: records are sorted into the dataset's order.

    If scoring is slower than the model, predictions are queued up to WAITING_BYTES; then `process` blocks.

    Args:
        dataset_name: its metadata provides the classes and the functions that load ground truth.
        output_dir: folder of the files to write; None for none.
        save_predictions: write each prediction below `output_dir`.
        scoring_threads: number of scoring threads; 0 scores in `process` itself.
        distributed: gather the records of all ranks on the main process.

    Raises:
        InputError: from `process` or `evaluate`, if a prediction or its ground truth is wrong.
    """

    #: The key of the model's output and of the result.
    task_key = ""
    #: Further keys that the result may have; see `metrics_by_key`.
    other_keys: tuple[str, ...] = ()

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        save_predictions: bool = False,
        scoring_threads: int = 2,
        distributed: bool = True,
    ):
        if save_predictions and output_dir is None:
            raise InputError("save_predictions needs an output_dir to write to, found None")
        self.dataset_name = dataset_name
        self.metadata = MetadataCatalog.get(dataset_name)
        self.class_names = list(self.metadata.classes)
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.save_predictions = save_predictions
        self.prediction_names = prediction_names(dataset_records(dataset_name)) if save_predictions else {}
        self.scoring_threads = scoring_threads
        self.distributed = distributed
        self._pool: ThreadPoolExecutor | None = None
        self.reset()

    @classmethod
    def from_options(cls, options: EvaluationOptions) -> dict[str, Any]:
        """Return the constructor's keyword arguments; a subclass adds its own."""
        return {
            "save_predictions": options.save_predictions,
            "scoring_threads": options.scoring_threads,
            "distributed": options.distributed,
        }

    @classmethod
    def writes(cls, submission: str) -> bool:
        """Return whether an evaluator of splits without labels applies to a dataset.

        Args:
            submission: format of the benchmark's server: the dataset's key `submission`, or the type of
                the labels of its other splits.
        """
        return True

    def protocol(self) -> Mapping[str, Any]:
        """Return this evaluator's own settings that change its metrics, as JSON values; {} for none.

        results.json stores them, and `compare_results` refuses results with different ones.
        """
        return {}

    @property
    def folder(self) -> Path:
        """The folder of an evaluator that writes files."""
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
        """Process a batch, as in Detectron2: the model's inputs (dataset dicts) and its outputs."""
        for dataset_dict, output in zip(inputs, outputs, strict=True):
            file_name = dataset_dict["file_name"]
            if file_name in self._seen:
                continue  # a sampler that pads the last batch repeats images
            self._seen.add(file_name)
            prediction = self.take(output, file_name)
            # Scoring needs the label files, not the image.
            record = {key: item for key, item in dataset_dict.items() if not isinstance(item, torch.Tensor)}
            self._submit(file_name, record, prediction)

    def flush(self) -> None:
        """Wait until every processed image is scored and its record kept."""
        while self._pending:
            self._collect()

    def evaluate(self) -> dict | None:
        """Return the result of `metrics_by_key` on the main process, None on the others."""
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
        return self.metrics_by_key(merged)

    def take(self, output: dict, file_name: str) -> Any:
        """Extract the prediction from a model's output and copy it to the CPU."""
        raise NotImplementedError

    def score(self, dataset_dict: dict, prediction: Any) -> Any:
        """Compare a prediction with the ground truth; runs in a thread and must not change `self`."""
        raise NotImplementedError

    def keep(self, file_name: str, record: Any) -> None:
        """Store the record of an image; called in the order of `process`."""
        self.records.append((file_name, record))

    def partial(self) -> Any:
        """Return the records that this rank sends to the main process."""
        return self.records

    def merge(self, parts: Iterable) -> Any:
        """Merge the records of ranks or shards: each image once, in the dataset's order.

        Sets `image_count`. `parts` is iterated once, since the parts of shards are read from files lazily.
        """
        records: dict[str, Any] = {}
        for file_name, record in itertools.chain(*parts):
            records.setdefault(file_name, record)
        # Sums of floats depend on their order, so restore the dataset's.
        files = (entry["file_name"] for entry in dataset_records(self.dataset_name))
        position = {file_name: index for index, file_name in enumerate(files)}
        self.image_count = len(records)
        return [records[name] for name in sorted(records, key=lambda name: position.get(name, len(position)))]

    def summarize(self, merged: Any) -> dict:
        """Compute the metrics from the result of `merge`, and log them; only on the main process."""
        raise NotImplementedError

    def metrics_by_key(self, merged: Any) -> dict[str, dict]:
        """Return {task_key: the result of `summarize`}; a subclass may add metrics under its `other_keys`."""
        return {self.task_key: self.summarize(merged)}

    def _submit(self, file_name: str, dataset_dict: dict, prediction: Any) -> None:
        if self.scoring_threads == 0:
            future: Future = Future()
            try:
                future.set_result(self.score(dataset_dict, prediction))
            except Exception as error:
                future.set_exception(error)
        else:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.scoring_threads, thread_name_prefix=type(self).__name__)
            future = self._pool.submit(self.score, dataset_dict, prediction)
        waiting = Waiting(file_name, future, held_bytes(prediction))
        self._pending.append(waiting)
        self._waiting_bytes += waiting.size
        while self._pending and (self._pending[0].future.done() or self._must_wait()):
            self._collect()

    def _must_wait(self) -> bool:
        # Each thread may hold one prediction of any size: logits of 150 classes are large.
        return len(self._pending) > self.scoring_threads and self._waiting_bytes > WAITING_BYTES

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


def prediction_names(dataset_dicts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return a name for the prediction of each image: its path without suffix, below the common folder.

    Returns:
        {file_name: "stem" or "folder/stem"}, unique, the same on every rank and when a folder is rescored.

    Raises:
        InputError: two images differ only in their suffix.
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
    """Raise InputError unless both maps are (H, W) of the same image."""
    if prediction.shape != ground_truth.shape:
        raise InputError(
            f"{file_name}: the prediction is {_size(prediction)} but the ground truth {_size(ground_truth)} "
            "(height x width); predictions must have the size of the original image"
        )


def to_numpy(values: torch.Tensor | np.ndarray) -> np.ndarray:
    """Return a tensor as a numpy array (copied only from another device), or the array itself."""
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def held_bytes(prediction: Any) -> int:
    """Return the number of bytes of the array, tensor or tuple of them that `take` returned."""
    if isinstance(prediction, tuple):
        return sum(held_bytes(part) for part in prediction)
    return int(getattr(prediction, "nbytes", 0))


def _size(array: np.ndarray) -> str:
    return " x ".join(str(side) for side in array.shape)


def class_table(names: Sequence[str], columns: Sequence[str], rows: Iterable[Sequence[float]]) -> str:
    """Return a pipe table of the classes with values, and a line with the number of the others.

    Args:
        names: names of the K classes.
        columns: names of the values.
        rows: K rows of len(columns) values; all are NaN for a class that does not occur.
    """
    present = [
        [name, *(f"{value:.2f}" for value in row)]
        for name, row in zip(names, rows, strict=True)
        if not all(map(math.isnan, row))
    ]
    absent = len(names) - len(present)
    note = f"\n({absent} classes that do not occur are left out)" if absent else ""
    return "\n".join(_pipe_lines([["class", *columns], *present])) + note


def _pipe_lines(cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table as tabulate's format "pipe" has them, in a tenth of its time.

    Args:
        cells: the header and the rows; the first column is text, the others are numbers.
    """
    # tabulate leaves two more places than the header needs.
    widths = [max(len(column[0]) + 2, *map(len, column)) for column in zip(*cells, strict=True)]
    form = f"| {{:<{widths[0]}}} |" + "".join(f" {{:>{width}}} |" for width in widths[1:])
    rule = [f":{'-' * (widths[0] + 1)}", *(f"{'-' * (width + 1)}:" for width in widths[1:])]
    yield form.format(*cells[0])
    yield f"|{'|'.join(rule)}|"
    for row in cells[1:]:
        yield form.format(*row)
