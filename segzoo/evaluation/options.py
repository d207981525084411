"""What evaluators may be told, in one place: each takes what it needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode


@dataclass(frozen=True)
class EvaluationOptions:
    """The options of all evaluators of a dataset; see `BackgroundEvaluator.from_options`.

    Attributes:
        save_predictions: write index, color and panoptic PNGs and JSON (TEST.SAVE_PREDICTIONS).
        save_json: write Detectron2's sem_seg_predictions.json.
        class_averaging: what "mIoU" averages, a key of semantic.CLASS_AVERAGING.
        transform_labels: semantic ground truth to that of the part of the image which is predicted.
        model_classes: names of the classes that predicted instances are numbered by; None: the thing
            classes of the dataset, as those of a model that was trained for the task instance.
        boundary_dilation: width of a boundary as a share of the image's diagonal (TEST.BOUNDARY_DILATION);
            None: the published one of the dataset.
        detections_per_image: most instances or entities that the model predicts, for the protocol
            (TEST.DETECTIONS_PER_IMAGE); None: not known.
        workers: scoring threads of each evaluator; 0 scores in the caller's thread.
        distributed: gather from all ranks.
        config: the whole configuration, for the keys of an evaluator from outside; None without one.
    """

    save_predictions: bool = False
    save_json: bool = False
    class_averaging: str = "valid"
    transform_labels: Callable[[np.ndarray], np.ndarray] | None = None
    model_classes: Sequence[str] | None = None
    boundary_dilation: float | None = None
    detections_per_image: int | None = None
    workers: int = 2
    distributed: bool = True
    config: CfgNode | None = None
