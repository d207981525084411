"""The task to draw predictions for: the model's own, or that of --task."""

from detectron2.config import CfgNode

from segzoo.modeling.build import find_architecture
from segzoo.utils.errors import InputError
from segzoo.utils.tasks import TASKS

# Models of these tasks have no classes, or thing classes only, and predict no other task.
_SINGLE_TASKS = ("entity", "instance")


def asked_task(task: str | None, cfg: CfgNode) -> str:
    """Return the task to predict.

    Args:
        task: value of --task; None for the model's own.
        cfg: the complete configuration of the model.

    Raises:
        InputError: the model cannot predict it.
    """
    if task is None or task == cfg.TASK:
        return cfg.TASK
    family = find_architecture(cfg)
    supported = [cfg.TASK] if cfg.TASK in _SINGLE_TASKS else getattr(family, "supported_tasks", TASKS)
    if task not in supported:
        raise InputError(
            f"--task {task}: this model predicts {', '.join(supported)} only; without --task it predicts "
            f"{cfg.TASK}"
        )
    return task
