"""Evaluate instances on Cityscapes, and on datasets whose label files number instances like Cityscapes'.

Shape shorthand: K classes, n predicted instances of an image.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import prediction_io
from .base import class_table
from .cityscapes_ap import Matches, Regions, class_precisions, join_matches, match_instances
from .instance_base import InstanceTaskEvaluator, Prediction, check_mask_size
from .instance_files import save_instances
from .unscored import warn_unscored

logger = logging.getLogger(__name__)

#: The submissions, see `BackgroundEvaluator.writes`, with instances in COCO's format instead of Cityscapes'.
COCO_INSTANCES = ("coco_instances", "panoptic")


class CityscapesInstanceEvaluator(InstanceTaskEvaluator):
    """Evaluator with the same numbers as evalInstanceLevelSemanticLabeling of cityscapesScripts.

    Metrics are AP (mean over classes and IoU thresholds 0.5, 0.55, ..., 0.95), AP50, `AP-<class>` and
    `AP50-<class>` in percent; NaN for a class without an instance of at least 100 pixels. No files are needed
    for scoring: records hold areas and overlaps. Ground truth comes from the metadata's `load_regions`. There
    is no box AP: the benchmark does not define one, and predicted boxes are not read.

    `save_predictions` writes the folder `cityscapes_instances`, in the format of the benchmark's server. See
    `InstanceTaskEvaluator` for the arguments.
    """

    saved_as = prediction_io.CITYSCAPES_FOLDER
    title = "Instance AP"
    rules = "Cityscapes"

    def score(self, dataset_dict: dict, prediction: Prediction) -> Matches:
        regions = self.metadata.load_regions(dataset_dict)
        check_mask_size(prediction.masks, regions.indices.shape, dataset_dict["file_name"])
        if self.save_predictions:
            self.save(dataset_dict["file_name"], prediction)
        return self.match(prediction, regions)

    def match(self, prediction: Prediction, regions: Regions, boundary: int | None = None) -> Matches:
        """Return the matches of an image; see `match_instances`."""
        meta = self.metadata
        return match_instances(
            prediction.masks,
            prediction.scores,
            prediction.classes,
            regions,
            is_thing=meta.isthing,
            ignore_label=meta.ignore_label,
            boundary=boundary,
        )

    def save(self, file_name: str, prediction: Prediction) -> None:
        """Write the prediction of an image; see `save_instances`."""
        ids = np.asarray(self.metadata.contiguous_id_to_dataset_id)[prediction.classes]
        name = self.prediction_names[file_name]
        save_instances(self.folder / self.saved_as, name, prediction.masks, ids, prediction.scores)

    def summarize(self, merged: list[Matches]) -> dict:
        matches = join_matches(merged)
        if not len(matches.classes):
            logger.warning("%s: no instance was predicted in any image", self.dataset_name)
        # A row for each thing class; the first column is at an IoU of 0.5.
        precisions = np.stack([class_precisions(matches, category) for category in self.things])
        names = [self.class_names[category] for category in self.things]
        if np.isnan(precisions).all():
            logger.warning(
                "%s: its %d images have no single object of at least 100 pixels, so there is no AP",
                self.dataset_name,
                self.image_count,
            )
        rows = [(100 * float(np.mean(row)), 100 * float(row[0])) for row in precisions]
        table = class_table(names, ["AP", "AP50"], rows)
        logger.info(f"{self.title} on {self.dataset_name}, {self.image_count} images, per class:\n{table}")
        metrics = {"AP": 100 * _mean(precisions), "AP50": 100 * _mean(precisions[:, 0])}
        for column, metric in enumerate(("AP", "AP50")):
            metrics |= {f"{metric}-{name}": row[column] for name, row in zip(names, rows, strict=True)}
        return metrics


class InstanceWriter(CityscapesInstanceEvaluator):
    """Evaluator of a split without labels that writes its instances and scores nothing.

    The only "metric" is the number of images. See `InstanceTaskEvaluator` for the arguments. Predictions are
    saved if there is an `output_dir`, whatever `save_predictions` is.
    """

    task_key = "instance_predictions"

    @classmethod
    def writes(cls, submission: str) -> bool:
        return submission not in COCO_INSTANCES

    def protocol(self) -> Mapping[str, Any]:
        return {}

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None, **options):
        super().__init__(dataset_name, output_dir, **{**options, "save_predictions": output_dir is not None})
        if output_dir is not None:
            warn_unscored(dataset_name, self.folder / self.saved_as, "instances")

    def score(self, dataset_dict: dict, prediction: Prediction) -> None:  # type: ignore[override]  # no record
        height, width = dataset_dict.get("height"), dataset_dict.get("width")
        if height is not None and width is not None:
            check_mask_size(prediction.masks, (height, width), dataset_dict["file_name"])
        if self.save_predictions:
            self.save(dataset_dict["file_name"], prediction)

    def summarize(self, merged: list) -> dict:
        return {"images": self.image_count}


def _mean(precisions: np.ndarray) -> float:
    """Return the mean without NaN; NaN if there are no other values."""
    return float("nan") if np.isnan(precisions).all() else float(np.nanmean(precisions))
