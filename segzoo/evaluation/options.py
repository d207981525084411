"""Options of the evaluators; each evaluator uses those it needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode

#: Values of TEST.BOX_AP.
PREDICTED, ALWAYS, NEVER = "predicted", "always", "never"
BOX_AP = (PREDICTED, ALWAYS, NEVER)
#: Values of TEST.ENTITY_AREA.
OF_MASK, OF_BOX = "mask", "box"
ENTITY_AREAS = (OF_MASK, OF_BOX)


@dataclass(frozen=True)
class EvaluationOptions:
    """The options of all evaluators of a dataset; see `BackgroundEvaluator.from_options`.

    Attributes:
        save_predictions: write index, color and panoptic PNGs and JSON (TEST.SAVE_PREDICTIONS).
        save_json: write Detectron2's sem_seg_predictions.json.
        class_averaging: the classes that "mIoU" averages, a key of semantic.CLASS_AVERAGING.
        transform_labels: maps semantic ground truth to the part of the image that is predicted.
        model_classes: class names that predicted instances are indexed by; None for the dataset's thing
            classes, as for a model trained for the task instance.
        boundary_dilation: width of a boundary relative to the image's diagonal (TEST.BOUNDARY_DILATION);
            None for the dataset's published one.
        detections_per_image: maximum number of predicted instances or entities, for the protocol
            (TEST.DETECTIONS_PER_IMAGE); None if unknown.
        box_ap: whether box AP is reported: "predicted", "always" or "never" (TEST.BOX_AP); see
            InstanceEvaluator.
        entity_area: size of a true entity in AP by size, the area of its "mask" or of its "box"
            (TEST.ENTITY_AREA).
        scoring_threads: number of scoring threads of each evaluator; 0 scores in the caller's thread.
        distributed: gather from all ranks.
        config: the whole configuration, for the keys of other packages' evaluators; None without one.
    """

    save_predictions: bool = False
    save_json: bool = False
    class_averaging: str = "valid"
    transform_labels: Callable[[np.ndarray], np.ndarray] | None = None
    model_classes: Sequence[str] | None = None
    boundary_dilation: float | None = None
    detections_per_image: int | None = None
    box_ap: str = PREDICTED
    entity_area: str = OF_MASK
    scoring_threads: int = 2
    distributed: bool = True
    config: CfgNode | None = None
