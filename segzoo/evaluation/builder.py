"""Build the evaluators of a dataset."""

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
from .coco_writers import PanopticWriter, ResultsWriter, StuffWriter
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
# Only for datasets with a background class: see `registry`.
register_evaluator("coco_instances", "semantic", SemanticEvaluator)
register_evaluator("cityscapes_instances", "instance", CityscapesInstanceEvaluator)
register_evaluator("cityscapes_instances", "semantic", SemanticEvaluator)
register_evaluator(NO_GROUND_TRUTH, "semantic", PredictionWriter)
register_evaluator(NO_GROUND_TRUTH, "instance", InstanceWriter)
register_evaluator(NO_GROUND_TRUTH, "instance", ResultsWriter)
register_evaluator(NO_GROUND_TRUTH, "panoptic", PanopticWriter)
register_evaluator(NO_GROUND_TRUTH, "semantic", StuffWriter)

# Additional evaluators: TEST.EVALUATORS ("boundary",).
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
    """Build the evaluators of a dataset, which are used like Detectron2's.

    Args:
        dataset_name: a registered dataset. Ground truth is read by its metadata's `load_sem_seg`,
            `load_panoptic`, `load_instances` and `load_regions`; `evaluator_type` determines the tasks that
            it has ground truth for.
        tasks: some of "semantic", "panoptic", "entity", "instance"; each adds one key to the result:
            "sem_seg" (mIoU, ...), "panoptic_seg" (PQ, ...), "entity_seg" (AP, ...), "segm" (AP, ...), and one
            for each additional evaluator. For a split without labels, predictions are written for a
            submission: see `PredictionWriter`, `InstanceWriter`, `ResultsWriter`, `PanopticWriter` and
            `StuffWriter`.
        output_dir: the folder for the confusion matrix and predictions, usually OUTPUT_DIR/inference, with a
            subfolder per dataset if there are several; None writes nothing.
        options: options of the evaluators.
        names: names of the evaluators that run beside the standard ones, as in TEST.EVALUATORS.
        changes: fields of `options` to replace.

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
    """Return {key of the result: evaluator's protocol} for the evaluators that have one."""
    return {
        one.task_key: dict(one.protocol())
        for one in evaluators._evaluators
        if isinstance(one, BackgroundEvaluator) and one.protocol()
    }
