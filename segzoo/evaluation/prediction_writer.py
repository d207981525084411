"""Write predictions for images without ground truth in the format of a benchmark's server.

Shape shorthand: K classes, H W pixels.
"""

from pathlib import Path

import numpy as np
import torch

from segzoo.utils.errors import InputError
from segzoo.utils.tasks import SUBMISSION_FORMATS

from . import prediction_io
from .histogram import argmax_labels
from .semantic import SemanticEvaluator
from .unscored import warn_unscored


class PredictionWriter(SemanticEvaluator):
    """Evaluator of a split without labels that writes its predictions and scores nothing.

    `submission/<name>.png` is an index PNG with the classes' colors as its palette and the values of the
    dataset's label files (Cityscapes: 7 for road). `sem_seg/<name>.png` holds class indices. The only
    "metric" is the number of images.

    See `SemanticEvaluator` for the arguments. Predictions are saved if there is an `output_dir`, whatever
    `save_predictions` is.

    Raises:
        InputError: only a part of each image is predicted.
    """

    task_key = "predictions"

    @classmethod
    def writes(cls, submission: str) -> bool:
        return submission not in SUBMISSION_FORMATS

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None, **options):
        if options.get("transform_labels") is not None:
            raise InputError(
                f"DATASETS.TEST: {dataset_name} has no ground truth, and TEST.PROTOCOL predicts only a part "
                "of each image; choose a TEST.PROTOCOL that predicts all of it"
            )
        super().__init__(dataset_name, output_dir, **{**options, "save_predictions": output_dir is not None})
        # None if the encoding has several values for a class.
        self.file_labels = self.metadata.get("file_labels")
        if output_dir is not None:
            warn_unscored(dataset_name, self.folder / prediction_io.SUBMISSION_FOLDER)

    def score(self, dataset_dict: dict, prediction: np.ndarray | torch.Tensor) -> tuple[np.ndarray, list]:
        labels = argmax_labels(prediction) if isinstance(prediction, torch.Tensor) else prediction
        if self.save_predictions:
            self.save(dataset_dict["file_name"], labels)
            name = self.prediction_names[dataset_dict["file_name"]]
            path = self.folder / prediction_io.SUBMISSION_FOLDER / f"{name}.png"
            prediction_io.save_file_labels(path, labels, self.file_labels, self.metadata.colors)
        return np.zeros_like(self.confusion_matrix), []

    def summarize(self, merged: tuple[np.ndarray, list]) -> dict:
        return {"images": self.image_count}
