"""The evaluators of a dataset, built."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.evaluation import DatasetEvaluators

from segzoo.utils.errors import InputError
from segzoo.utils.tasks import NO_GROUND_TRUTH

from .base import BackgroundEvaluator
from .boundary import (
    BoundaryCityscapesEvaluator,
    BoundaryEntityEvaluator,
    BoundaryInstanceEvaluator,
    BoundaryPanopticEvaluator,
    BoundarySemanticEvaluator,
)
from .cityscapes_instance import CityscapesInstanceEvaluator, InstanceWriter
from .entity import EntityEvaluator
from .instance import InstanceEvaluator
from .options import EvaluationOptions
from .panoptic import PanopticEvaluator
from .prediction_writer import PredictionWriter
from .registry import find_evaluators, register_evaluator
from .semantic import SemanticEvaluator

register_evaluator("sem_seg", "semantic", SemanticEvaluator)
register_evaluator("panoptic", "semantic", SemanticEvaluator)
register_evaluator("panoptic", "panoptic", PanopticEvaluator)
register_evaluator("panoptic", "entity", EntityEvaluator)
register_evaluator("panoptic", "instance", InstanceEvaluator)
register_evaluator("coco_instances", "instance", InstanceEvaluator)
# Where the dataset has a class for what no instance covers: see `registry`.
register_evaluator("coco_instances", "semantic", SemanticEvaluator)
register_evaluator("cityscapes_instances", "instance", CityscapesInstanceEvaluator)
register_evaluator("cityscapes_instances", "semantic", SemanticEvaluator)
register_evaluator(NO_GROUND_TRUTH, "semantic", PredictionWriter)
register_evaluator(NO_GROUND_TRUTH, "instance", InstanceWriter)

# Beside them: TEST.EVALUATORS ("boundary",).
register_evaluator("panoptic", "panoptic", BoundaryPanopticEvaluator, name="boundary")
register_evaluator("panoptic", "entity", BoundaryEntityEvaluator, name="boundary")
register_evaluator("panoptic", "instance", BoundaryInstanceEvaluator, name="boundary")
register_evaluator("coco_instances", "instance", BoundaryInstanceEvaluator, name="boundary")
register_evaluator("cityscapes_instances", "instance", BoundaryCityscapesEvaluator, name="boundary")
for _type in ("sem_seg", "panoptic", "coco_instances", "cityscapes_instances"):
    register_evaluator(_type, "semantic", BoundarySemanticEvaluator, name="boundary")


def build_evaluator(
    dataset_name: str,
    tasks: Sequence[str],
    output_dir: str | Path | None = None,
    options: EvaluationOptions | None = None,
    *,
    names: Sequence[str] = (),
    **changes: Any,
) -> DatasetEvaluators:
    """Build the evaluators of a dataset, to be used as any of Detectron2's.

    Args:
        dataset_name: a registered dataset. Ground truth is read by its metadata's `load_sem_seg`,
            `load_panoptic`, `load_instances` and `load_regions`; which tasks it has ground truth for follows
            from `evaluator_type`.
        tasks: of "semantic", "panoptic", "entity", "instance"; each gives the result one key: "sem_seg"
            (mIoU, ...), "panoptic_seg" (PQ, ...), "entity_seg" (AP, ...), "segm" (AP, ...), and one more for
            each evaluator beside the standard one. For a split without labels, "semantic" and "instance"
            write predictions for a submission: see `PredictionWriter` and `InstanceWriter`.
        output_dir: the folder for the confusion matrix and predictions, usually OUTPUT_DIR/inference, with a
            subfolder per dataset where there are several; None writes nothing.
        options: what the evaluators are told.
        names: of the evaluators that run beside the standard ones, as TEST.EVALUATORS has them.
        changes: fields of `options` by name.

    Raises:
        InputError: the dataset has no ground truth for a task, or a name is unknown.
    """
    options = replace(options or EvaluationOptions(), **changes)
    evaluators = [
        evaluator(dataset_name, output_dir, **evaluator.from_options(options))
        for evaluator in find_evaluators(dataset_name, tasks, names)
    ]
    if not evaluators:
        raise InputError(f"TEST.TASKS is empty: nothing to evaluate on {dataset_name}")
    return DatasetEvaluators(evaluators)


def evaluator_protocols(evaluators: DatasetEvaluators) -> dict[str, dict[str, Any]]:
    """Return {key of the result: what can change its numbers} of those evaluators that say so."""
    return {
        one.task_key: dict(one.protocol())
        for one in evaluators._evaluators
        if isinstance(one, BackgroundEvaluator) and one.protocol()
    }
