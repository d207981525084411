"""The task that predictions are drawn for: the model's own, or that of --task."""

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from segzoo.utils.errors import InputError
from segzoo.utils.registries import registered
from segzoo.utils.tasks import TASKS

# Such a model knows no classes, or those of things alone.
_OF_SEGMENTS = ("entity", "instance")


def asked_task(task: str | None, cfg: CfgNode) -> str:
    """Return the task to predict.

    Args:
        task: of --task; None for the model's own.
        cfg: the complete configuration of the model.

    Raises:
        InputError: the model cannot predict it.
    """
    if task is None or task == cfg.TASK:
        return cfg.TASK
    family = registered(META_ARCH_REGISTRY, "MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE)
    supported = [cfg.TASK] if cfg.TASK in _OF_SEGMENTS else getattr(family, "supported_tasks", TASKS)
    if task not in supported:
        raise InputError(
            f"--task {task}: this model predicts {', '.join(supported)} only; without --task it predicts "
            f"{cfg.TASK}"
        )
    return task
