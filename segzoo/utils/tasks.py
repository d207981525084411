"""Tasks of models and types of ground truth."""

from typing import NamedTuple


class Task(NamedTuple):
    """A task that a model can be trained for.

    Attributes:
        classes: predicted classes: "all" of the dataset, its "things", or "one" for all segments.
        target: name of a target in messages, singular.
        from_classes: whether class labels of pixels suffice, without segments.
    """

    classes: str
    target: str
    from_classes: bool = False


#: Tasks by name, the values of TASK and TEST.TASKS. `segzoo.data.register_task` adds others.
TASKS: dict[str, Task] = {
    "semantic": Task("all", "labeled pixel", from_classes=True),
    "panoptic": Task("all", "non-crowd segment"),
    "instance": Task("things", "non-crowd instance"),
    "entity": Task("one", "non-crowd segment"),
}

#: Types of ground truth, the values of `evaluator` in a dataset's YAML file, which determine its evaluators.
#: `segzoo.evaluation.register_evaluator` adds others.
EVALUATOR_TYPES = ["sem_seg", "panoptic", "coco_instances", "cityscapes_instances"]

#: Type of a split that has only images: predictions are written, and not scored.
NO_GROUND_TRUTH = "no_ground_truth"

#: Formats of predictions on such splits, the values of `submission` in a dataset's YAML file. By default the
#: type of ground truth is the format. `BackgroundEvaluator.writes` selects the evaluator.
SUBMISSION_FORMATS = ("coco_stuff",)
