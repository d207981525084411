"""The tasks that a model can be trained for and asked for, and the kinds of ground truth."""

TASKS = ("semantic", "panoptic", "instance", "entity")

#: What the ground truth of a dataset may be, the values of `evaluator` in its YAML file: its evaluators are
#: found by it. `segzoo.evaluation.register_evaluator` adds others.
EVALUATOR_TYPES = ["sem_seg", "panoptic", "coco_instances", "cityscapes_instances"]

#: The kind of a split that has images only: its predictions are written, and nothing is scored.
NO_GROUND_TRUTH = "no_ground_truth"
