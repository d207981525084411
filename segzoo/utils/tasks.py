"""The tasks that a model can be trained for and asked for, and the kinds of ground truth."""

from typing import NamedTuple


class Task(NamedTuple):
    """What a model can be trained for.

    Attributes:
        classes: the classes that it predicts: "all" of the dataset, its "things", or "one" for all segments.
        target: what an image without targets lacks, for messages.
        from_classes: whether a label of each pixel is enough, and no segments are needed.
    """

    classes: str
    target: str
    from_classes: bool = False


#: By name, the values of TASK and TEST.TASKS. `segzoo.data.register_task` adds others.
TASKS: dict[str, Task] = {
    "semantic": Task("all", "labeled pixel", from_classes=True),
    "panoptic": Task("all", "segment that is no crowd"),
    "instance": Task("things", "instance that is no crowd"),
    "entity": Task("one", "segment that is no crowd"),
}

#: What the ground truth of a dataset may be, the values of `evaluator` in its YAML file: its evaluators are
#: found by it. `segzoo.evaluation.register_evaluator` adds others.
EVALUATOR_TYPES = ["sem_seg", "panoptic", "coco_instances", "cityscapes_instances"]

#: The kind of a split that has images only: its predictions are written, and nothing is scored.
NO_GROUND_TRUTH = "no_ground_truth"
