"""Which evaluator scores which task on which dataset."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluators

from segzoo.utils.errors import InputError

from .base import BackgroundEvaluator
from .cityscapes_instance import CityscapesInstanceEvaluator, InstanceWriter
from .entity import EntityEvaluator
from .instance import InstanceEvaluator
from .instance_base import InstanceTaskEvaluator
from .panoptic import PanopticEvaluator
from .prediction_writer import PredictionWriter
from .semantic import SemanticEvaluator

#: (the dataset's evaluator_type, the task) -> the evaluator.
EVALUATORS: dict[tuple[str, str], type[BackgroundEvaluator]] = {
    ("sem_seg", "semantic"): SemanticEvaluator,
    ("panoptic", "semantic"): SemanticEvaluator,
    ("panoptic", "panoptic"): PanopticEvaluator,
    ("panoptic", "entity"): EntityEvaluator,
    ("panoptic", "instance"): InstanceEvaluator,
    ("coco_instances", "instance"): InstanceEvaluator,
    # With a background only: see `find_evaluator`.
    ("coco_instances", "semantic"): SemanticEvaluator,
    ("cityscapes_instances", "instance"): CityscapesInstanceEvaluator,
    ("cityscapes_instances", "semantic"): SemanticEvaluator,
    ("no_ground_truth", "semantic"): PredictionWriter,
    ("no_ground_truth", "instance"): InstanceWriter,
}


def find_evaluator(dataset_name: str, task: str) -> type[BackgroundEvaluator] | None:
    """The evaluator of a task, None where the dataset has no ground truth for it."""
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.evaluator_type
    if (kind, task) == ("coco_instances", "semantic") and metadata.get("background") is None:
        return None
    return EVALUATORS.get((kind, task))


def build_evaluator(
    dataset_name: str,
    tasks: tuple[str, ...] | list[str],
    output_dir: str | Path | None = None,
    *,
    save_predictions: bool = False,
    save_json: bool = False,
    class_averaging: str = "valid",
    transform_labels: Callable[[np.ndarray], np.ndarray] | None = None,
    model_classes: Sequence[str] | None = None,
    workers: int = 2,
    distributed: bool = True,
) -> DatasetEvaluators:
    """Builds the evaluators of a dataset, to be used as any of Detectron2's.

    Args:
        dataset_name: a registered dataset. Ground truth is read by its metadata's `load_sem_seg`,
            `load_panoptic`, `load_instances` and `load_regions`; which tasks it has ground truth for follows
            from `evaluator_type`.
        tasks: of "semantic", "panoptic", "entity", "instance"; each gives the result one key: "sem_seg"
            (mIoU, ...), "panoptic_seg" (PQ, ...), "entity_seg" (AP, ...), "segm" (AP, ...). Of a split
            without labels, "semantic" and "instance" write predictions for a submission: see
            `PredictionWriter` and `InstanceWriter`.
        output_dir: the folder for the confusion matrix and predictions, usually OUTPUT_DIR/inference, with a
            subfolder per dataset where there are several; None writes nothing.
        save_predictions: write index, colour and panoptic PNGs and JSON (TEST.SAVE_PREDICTIONS).
        save_json: write Detectron2's sem_seg_predictions.json.
        class_averaging: what "mIoU" averages, a key of semantic.CLASS_AVERAGING.
        transform_labels: semantic ground truth to that of the part of the image which is predicted.
        model_classes: names of the classes that predicted instances are numbered by; None: the thing
            classes of the dataset, as those of a model that was trained for the task instance.
        workers: scoring threads of each evaluator; 0 scores in the caller's thread.
        distributed: gather from all ranks.

    Raises:
        InputError: the dataset has no ground truth for a task.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).evaluator_type
    options = {"save_predictions": save_predictions, "workers": workers, "distributed": distributed}
    evaluators = []
    for task in tasks:
        evaluator = find_evaluator(dataset_name, task)
        if evaluator is None:
            tasks_of_all = sorted({name for _, name in EVALUATORS})
            possible = [name for name in tasks_of_all if find_evaluator(dataset_name, name) is not None]
            remedy = ""
            if (evaluator_type, task) == ("coco_instances", "semantic"):
                remedy = (
                    ", or add a class for what no instance covers to classes in its YAML file, and name it "
                    "there under background"
                )
            raise InputError(
                f"TEST.TASKS: {dataset_name} (evaluator_type {evaluator_type}) cannot score {task!r}; "
                f"expected some of {', '.join(possible) or 'no task at all'}{remedy}"
            )
        extra = {}
        if issubclass(evaluator, SemanticEvaluator):
            extra = {
                "class_averaging": class_averaging,
                "save_json": save_json,
                "transform_labels": transform_labels,
            }
        elif issubclass(evaluator, InstanceTaskEvaluator):
            extra = {"model_classes": model_classes}
        evaluators.append(evaluator(dataset_name, output_dir, **options, **extra))
    if not evaluators:
        raise InputError(f"TEST.TASKS is empty: nothing to evaluate on {dataset_name}")
    return DatasetEvaluators(evaluators)
