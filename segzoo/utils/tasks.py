"""The tasks that a model can be trained for and asked for."""

TASKS = ("semantic", "panoptic", "instance", "entity")
