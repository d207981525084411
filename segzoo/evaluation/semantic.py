"""Compute semantic segmentation metrics from a confusion matrix: mIoU, mAcc, aAcc (pixAcc) and fwIoU.

Shape shorthand: K classes, H W pixels.
"""

import csv
import io
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text

from . import prediction_io
from .base import BackgroundEvaluator, check_same_size, class_table, to_numpy
from .histogram import argmax_labels, label_dtype, label_histogram
from .options import EvaluationOptions

logger = logging.getLogger(__name__)

#: The classes that mIoU is averaged over, and the code bases that do so.
CLASS_AVERAGING = {
    "valid": "classes that the ground truth or a prediction has (Detectron2 0.6)",
    "ground_truth": "classes that the ground truth has (Detectron2 main)",
    "all": "all classes, an absent one counts 0 (semseg, GluonCV)",
}


class SemanticEvaluator(BackgroundEvaluator):
    """Evaluator of `sem_seg_labels` (H, W) integers, or of the argmax of `sem_seg` (K, H, W) scores.

    The numbers equal Detectron2's SemSegEvaluator's on the same predictions. After `evaluate`,
    `confusion_matrix` (main process) is (K + 1, K + 1) int64 with predictions as rows, as in Detectron2.

    `save_predictions` writes `sem_seg/<name>.png` (contiguous class ids, 8 or 16 bits) and
    `sem_seg_color/<name>.png`.

    Args:
        class_averaging: a key of CLASS_AVERAGING that defines "mIoU"; all three averages are reported.
        save_json: also write sem_seg_predictions.json, Detectron2's RLE file (slow).
        transform_labels: maps (H, W) ground truth to the part of the image that is predicted.

    See `BackgroundEvaluator` for the remaining arguments.
    """

    task_key = "sem_seg"

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        class_averaging: str = "valid",
        save_json: bool = False,
        transform_labels: Callable[[np.ndarray], np.ndarray] | None = None,
        **options,
    ):
        if class_averaging not in CLASS_AVERAGING:
            raise InputError(
                f"class_averaging {class_averaging!r}: expected one of {', '.join(CLASS_AVERAGING)}"
            )
        if save_json and output_dir is None:
            raise InputError("save_json needs an output_dir to write to, found None")
        self.class_averaging = class_averaging
        self.save_json = save_json
        self.transform_labels = transform_labels
        super().__init__(dataset_name, output_dir, **options)
        self.ignore_label = self.metadata.ignore_label

    @classmethod
    def from_options(cls, options: EvaluationOptions) -> dict[str, Any]:
        return {
            **super().from_options(options),
            "class_averaging": options.class_averaging,
            "save_json": options.save_json,
            "transform_labels": options.transform_labels,
        }

    def reset(self) -> None:
        super().reset()
        size = len(self.class_names) + 1
        self.confusion_matrix = np.zeros((size, size), np.int64)

    def take(self, output: dict, file_name: str) -> np.ndarray | torch.Tensor:
        num_classes = len(self.class_names)
        if "sem_seg_labels" in output:
            return _small_labels(to_numpy(output["sem_seg_labels"]), num_classes, file_name)
        scores = output["sem_seg"]
        if len(scores) != num_classes:
            raise InputError(
                f"{file_name}: the model scores {len(scores)} classes but {self.dataset_name} has "
                f"{num_classes}; set MODEL.SEM_SEG_HEAD.NUM_CLASSES to 0 for the dataset's number"
            )
        # On a CPU a scoring thread computes the argmax, which takes most of the time.
        return scores if scores.device.type == "cpu" else argmax_labels(scores)

    def score(self, dataset_dict: dict, prediction: np.ndarray | torch.Tensor) -> tuple[np.ndarray, list]:
        file_name = dataset_dict["file_name"]
        labels, ground_truth = self.labels_and_truth(dataset_dict, prediction)
        try:
            table = label_histogram(labels, ground_truth, len(self.class_names), self.ignore_label)
        except ValueError as error:
            raise InputError(f"{file_name}: {error}") from None
        if self.save_predictions:
            self.save(file_name, labels)
        return table, self._encode(labels, file_name) if self.save_json else []

    def labels_and_truth(
        self, dataset_dict: dict, prediction: np.ndarray | torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the prediction as class indices, and the ground truth of the same pixels: (H, W) each."""
        labels = argmax_labels(prediction) if isinstance(prediction, torch.Tensor) else prediction
        ground_truth = np.asarray(self.metadata.load_sem_seg(dataset_dict))
        if self.transform_labels is not None:
            ground_truth = np.ascontiguousarray(self.transform_labels(ground_truth))
        check_same_size(dataset_dict["file_name"], labels, ground_truth)
        return labels, ground_truth

    def save(self, file_name: str, labels: np.ndarray) -> None:
        """Write a prediction, (H, W) class indices, as index PNG and in the classes' colors."""
        name = f"{self.prediction_names[file_name]}.png"
        prediction_io.save_labels(self.folder / prediction_io.LABEL_FOLDER / name, labels)
        prediction_io.save_colors(
            self.folder / prediction_io.COLOR_FOLDER / name, labels, self.metadata.colors
        )

    def keep(self, file_name: str, record: tuple[np.ndarray, list]) -> None:
        table, annotations = record
        self.confusion_matrix += table
        self.records.append((file_name, annotations))

    def partial(self) -> tuple[np.ndarray, list]:
        return self.confusion_matrix, self.records

    def merge(self, parts: Iterable[tuple[np.ndarray, list]]) -> tuple[np.ndarray, list]:
        matrix, records = np.zeros_like(self.confusion_matrix), []
        for part, part_records in parts:
            matrix += part
            records += part_records
        self.image_count = len(records)
        if len({file_name for file_name, _ in records}) < len(records):
            raise InputError(
                f"{self.dataset_name}: two ranks scored the same image; use Detectron2's InferenceSampler"
            )
        return matrix, [annotation for _, annotations in records for annotation in annotations]

    def summarize(self, merged: tuple[np.ndarray, list]) -> dict:
        self.confusion_matrix, annotations = merged
        if not self.confusion_matrix[:, :-1].any():
            logger.warning(
                "%s: none of its %d images has a labeled pixel, so there is no mIoU; "
                "`segzoo check-data` shows the content of its labels",
                self.dataset_name,
                self.image_count,
            )
        metrics, per_class = semantic_metrics(self.confusion_matrix, self.class_averaging)
        self._log(metrics, per_class)
        if self.output_dir is not None:
            path = self.output_dir / "sem_seg_confusion.csv"
            write_text(path, confusion_csv(self.confusion_matrix, self.class_names), durable=False)
        if self.save_json:
            path = self.folder / "sem_seg_predictions.json"
            write_text(path, json.dumps(annotations))
        for measure, values in per_class.items():
            metrics |= {
                f"{measure}-{name}": value for name, value in zip(self.class_names, values, strict=True)
            }
        return metrics

    def _log(self, metrics: dict, per_class: dict) -> None:
        rows = zip(per_class["IoU"], per_class["Acc"], strict=True)
        classes = class_table(self.class_names, ["IoU", "Acc"], rows)
        printed = printed_metrics(metrics)
        totals = tabulate([printed.values()], list(printed), tablefmt="pipe", floatfmt=".3f")
        logger.info(
            f"Semantic segmentation on {self.dataset_name}, {self.image_count} images, per class:\n{classes}"
        )
        logger.info(
            f"Semantic segmentation on {self.dataset_name} (aAcc is also called pixAcc); "
            f"mIoU averages the {CLASS_AVERAGING[self.class_averaging]}:\n{totals}"
        )

    def _encode(self, labels: np.ndarray, file_name: str) -> list[dict]:
        """Return the classes of an image as COCO RLE with the dataset's category ids, as Detectron2 does."""
        from pycocotools import mask as rle

        annotations = []
        for label in np.unique(labels):
            segmentation = rle.encode(np.asfortranarray(labels == label, np.uint8))
            segmentation["counts"] = segmentation["counts"].decode("ascii")
            category = int(self.metadata.contiguous_id_to_dataset_id[label])
            annotations.append(
                {"file_name": file_name, "category_id": category, "segmentation": segmentation}
            )
        return annotations


def semantic_metrics(confusion_matrix: np.ndarray, class_averaging: str = "valid") -> tuple[dict, dict]:
    """Return the metrics of a confusion matrix.

    Args:
        confusion_matrix: (K + 1, K + 1) pixel counts, rows predictions, columns ground truth; the last row
            and column are ignored.
        class_averaging: the average called "mIoU" (and "mAcc": over all K classes only for "all").

    Returns:
        Two dicts: {"mIoU", "fwIoU", "mAcc", "aAcc", "mIoU_valid", "mIoU_ground_truth", "mIoU_all"} as floats
        in percent, and {"IoU": K floats, "Acc": K floats} in percent, NaN for a class without ground truth.
    """
    counts = confusion_matrix[:-1, :-1]
    correct = counts.diagonal().astype(float)
    true = counts.sum(axis=0).astype(float)
    predicted = counts.sum(axis=1).astype(float)
    present = true > 0
    valid = (true + predicted) > 0
    iou = np.full(len(counts), np.nan)
    accuracy = np.full(len(counts), np.nan)
    iou[present] = correct[present] / (true + predicted - correct)[present]
    accuracy[present] = correct[present] / true[present]
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN if all pixels are ignored
        iou_sum, accuracy_sum = np.sum(iou[present]), np.sum(accuracy[present])
        averages = {
            "valid": iou_sum / np.sum(valid),
            "ground_truth": iou_sum / np.sum(present),
            "all": iou_sum / len(counts),
        }
        metrics = {
            "mIoU": averages[class_averaging],
            "fwIoU": np.sum(iou[present] * (true / np.sum(true))[present]),
            "mAcc": accuracy_sum / (len(counts) if class_averaging == "all" else np.sum(present)),
            "aAcc": np.sum(correct) / np.sum(true),
        }
    metrics |= {f"mIoU_{name}": value for name, value in averages.items()}
    if not present.any():
        # Without ground truth, the averages over all classes are NaN as well, not 0.
        metrics = dict.fromkeys(metrics, np.nan)
    per_class = {"IoU": (100 * iou).tolist(), "Acc": (100 * accuracy).tolist()}
    return {name: float(100 * value) for name, value in metrics.items()}, per_class


def printed_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics without the averages that equal "mIoU", for tables."""
    averages = {f"mIoU_{name}" for name in CLASS_AVERAGING}
    # As strings, NaN equals NaN.
    return {
        name: value
        for name, value in metrics.items()
        if name not in averages or repr(value) != repr(metrics.get("mIoU"))
    }


def confusion_csv(confusion_matrix: np.ndarray, class_names: list[str]) -> str:
    """Return the confusion matrix as CSV: pixels, with a row per true and a column per predicted class."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["ground truth \\ prediction", *class_names])
    for name, row in zip(class_names, confusion_matrix[:-1, :-1].T, strict=True):
        writer.writerow([name, *row.tolist()])
    return text.getvalue()


def _small_labels(labels: np.ndarray, num_classes: int, file_name: str) -> np.ndarray:
    """Check a label map's range and convert it to the smallest type, so that few kernels are compiled."""
    dtype = label_dtype(num_classes)
    if labels.dtype == dtype:
        return labels
    if labels.size and not 0 <= labels.min() <= labels.max() < num_classes:
        raise InputError(
            f"{file_name}: predicted labels {labels.min()} .. {labels.max()}, "
            f"expected all in [0, {num_classes})"
        )
    return labels.astype(dtype)
