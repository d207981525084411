"""Trainers by name."""

from detectron2.config import CfgNode

from segzoo.utils.errors import InputError
from segzoo.utils.registries import registered

from .trainer import Trainer
from .trainer_registry import TRAINER_REGISTRY


def find_trainer(cfg: CfgNode) -> type[Trainer]:
    """Return the class that TRAINER names.

    Raises:
        InputError: no trainer of this name is registered, or what is registered is not a subclass of Trainer.
    """
    found = registered(TRAINER_REGISTRY, "TRAINER", cfg.TRAINER)
    if not (isinstance(found, type) and issubclass(found, Trainer)):
        raise InputError(
            f"TRAINER {cfg.TRAINER}: expected a subclass of segzoo.engine.Trainer, not {found!r}"
        )
    return found
