"""Base class of the evaluators of instances, which checks a model's predictions.

Shape shorthand: n predicted instances of an image, H W pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segzoo.utils.errors import InputError
from segzoo.utils.lazy_masks import LazyMasks, planes, stored_masks

from .base import BackgroundEvaluator, to_numpy
from .mask_runs import MaskRuns
from .options import EvaluationOptions

_FIELDS = ("pred_masks", "scores", "pred_classes")


class Prediction(NamedTuple):
    """Predicted instances: masks (n, H, W), scores (n,) float64, classes (n,) int64 dataset indices.

    masks: an array, `LazyMasks` that are drawn in groups, or `MaskRuns` of masks on another device; `rows`
        visits one after the other.
    boxes: (n, 4) float64 x, y, width, height; None if there are none, or they are not scored.
    """

    masks: Any
    scores: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray | None = None

    def rows(self) -> Iterator[tuple[Any, float, int]]:
        """Yield mask, (H, W) bool or the RLE of `MaskRuns`, score and class of each instance."""
        masks = self.masks if isinstance(self.masks, MaskRuns) else planes(self.masks)
        for mask, score, category in zip(masks, self.scores, self.classes, strict=True):
            yield mask, float(score), int(category)


class InstanceTaskEvaluator(BackgroundEvaluator):
    """Evaluator of `instances`: Detectron2's Instances with `pred_masks` (n, H, W), `scores`, `pred_classes`.

    Args:
        model_classes: class names that `pred_classes` indexes; None for the dataset's thing classes.
        detections_per_image: maximum number of instances that the model predicts, for the protocol; None if
            unknown.

    See `BackgroundEvaluator` for the remaining arguments.
    """

    task_key = "segm"
    #: The benchmark whose rules are applied.
    rules = ""
    #: The file or folder that `save_predictions` writes.
    saved_as = ""

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        model_classes: Sequence[str] | None = None,
        detections_per_image: int | None = None,
        **options,
    ):
        super().__init__(dataset_name, output_dir, **options)
        self.detections_per_image = detections_per_image
        self.things = np.flatnonzero(self.metadata.isthing)
        if model_classes is None:
            model_classes = [self.class_names[index] for index in self.things]
        self.model_classes = list(model_classes)
        indices = {name: index for index, name in enumerate(self.class_names)}
        # -1 for classes of the model that the dataset lacks.
        self.predicted_classes = np.array([indices.get(name, -1) for name in self.model_classes])
        if not len(self.things):
            raise InputError(
                f"TEST.TASKS: {dataset_name} has no thing classes and so no instances; mark classes with "
                "isthing: true in its YAML file, or leave the task instance out"
            )

    @classmethod
    def from_options(cls, options: EvaluationOptions) -> dict[str, Any]:
        return {
            **super().from_options(options),
            "model_classes": options.model_classes,
            "detections_per_image": options.detections_per_image,
        }

    def protocol(self) -> Mapping[str, Any]:
        limit = self.detections_per_image
        return {"rules": self.rules} | ({} if limit is None else {"detections_per_image": limit})

    def take_masks(self, instances: Any) -> np.ndarray | LazyMasks | MaskRuns:
        """Return the masks of predicted instances in a form that `score` reads."""
        return cpu_masks(instances)

    def take(self, output: dict, file_name: str) -> Prediction:
        if "instances" not in output:
            raise InputError(
                f"{file_name}: the model returned {', '.join(output) or 'nothing'}, expected instances; "
                "add the task instance to TEST.TASKS"
            )
        instances = output["instances"]
        missing = [field for field in _FIELDS if not instances.has(field)]
        if missing:
            raise InputError(f"{file_name}: the predicted instances lack {missing[0]}")
        masks = self.take_masks(instances)
        scores, classes = (to_numpy(instances.get(field)) for field in _FIELDS[1:])
        if len(masks.shape) != 3 or len(masks) != len(scores) or len(scores) != len(classes):
            raise InputError(
                f"{file_name}: pred_masks {masks.shape}, scores {scores.shape} and pred_classes "
                f"{classes.shape} do not fit; expected (n, H, W), (n,) and (n,)"
            )
        if not np.isfinite(scores).all():
            raise InputError(f"{file_name}: an instance has the score {scores[~np.isfinite(scores)][0]}")
        number = len(self.predicted_classes)
        wrong = classes[(classes < 0) | (classes >= number)]
        if len(wrong):
            raise InputError(
                f"{file_name}: an instance has the class {wrong[0]}, expected one of [0, {number})"
            )
        indices = self.predicted_classes[classes.astype(np.int64)]
        if (indices < 0).any():
            name = self.model_classes[int(classes[indices < 0][0])]
            raise InputError(
                f"{file_name}: an instance has the class {name!r}, which {self.dataset_name} does not have"
            )
        return Prediction(masks, scores.astype(np.float64), indices)


def cpu_masks(instances: Any) -> np.ndarray | LazyMasks:
    """Return the masks of predicted instances on the CPU, as an array if they are stored at full size."""
    masks = stored_masks(instances)
    return masks.to("cpu") if isinstance(masks, LazyMasks) else to_numpy(masks)


def check_mask_size(masks: np.ndarray | LazyMasks | MaskRuns, size: tuple[int, ...], file_name: str) -> None:
    """Raise InputError unless (n, H, W) masks, if any, have the (height, width) of their image."""
    if len(masks) and masks.shape[1:] != size:
        raise InputError(
            f"{file_name}: the predicted masks are {_size(masks.shape[1:])} but the image is {_size(size)} "
            "(height x width); predictions must have the size of the original image"
        )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)
