"""Trainers by name: what a configuration is trained, evaluated and tested with."""

from typing import TYPE_CHECKING

from detectron2.config import CfgNode

from segzoo.utils.registries import NamedRegistry, registered

if TYPE_CHECKING:
    from .trainer import Trainer

TrainerClass = type["Trainer"]

TRAINER_REGISTRY = NamedRegistry("TRAINER")
TRAINER_REGISTRY.__doc__ = """
Subclasses of `segzoo.engine.Trainer`, by the name that TRAINER gives.

Whatever runs a configuration builds its parts by the class methods of its trainer: `build_model`,
`build_mapper`, `build_test_loader`, `build_evaluators`, ...
"""


def find_trainer(cfg: CfgNode) -> TrainerClass:
    """Return the class that TRAINER names.

    Raises:
        InputError: none is registered by that name.
    """
    from . import trainer  # noqa: F401  registers the standard one, and imports this

    return registered(TRAINER_REGISTRY, "TRAINER", cfg.TRAINER)
