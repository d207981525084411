"""Trainers by name."""

from detectron2.config import CfgNode

from segzoo.utils.registries import registered

from .trainer import Trainer
from .trainer_registry import TRAINER_REGISTRY


def find_trainer(cfg: CfgNode) -> type[Trainer]:
    """Return the class that TRAINER names.

    Raises:
        InputError: no trainer of this name is registered.
    """
    return registered(TRAINER_REGISTRY, "TRAINER", cfg.TRAINER)
