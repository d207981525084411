"""Check of the registered names in a configuration, before anything is built."""

from detectron2.config import CfgNode
from detectron2.engine import TrainerBase

from segzoo.data.augmentation.build import find_family
from segzoo.data.training_targets import find_targets
from segzoo.data.wanted_targets import wanted_targets
from segzoo.evaluation.registry import check_names_beside
from segzoo.modeling.build import find_architecture
from segzoo.modeling.protocols import check_preset
from segzoo.modeling.registry import check_names as check_part
from segzoo.solver import find_optimizer, find_schedule

from .trainer_registry import TRAINER_REGISTRY


def check_names(cfg: CfgNode, trainer: type[TrainerBase], *, trains: bool = True) -> None:
    """Raise for unregistered names of parts in a configuration: the keys of `segzoo.config.rules.NAMES`.

    Names whose `build_` method the trainer replaces are not checked, nor are those of a model whose class has
    no `check_names`.

    Args:
        cfg: complete.
        trainer: the trainer that runs it.
        trains: False: only what an evaluation builds.

    Raises:
        InputError: a name is not registered in segzoo, Detectron2 or a module of IMPORTS.
    """
    if is_standard(trainer, "build_model"):
        check_part(find_architecture(cfg), cfg)
    check_preset("TEST.PROTOCOL", cfg.TEST.PROTOCOL)
    if is_standard(trainer, "build_evaluators") and is_standard(trainer, "build_evaluator"):
        check_names_beside(cfg.TEST.EVALUATORS)
    if not trains:
        return
    if is_standard(trainer, "build_optimizer"):
        find_optimizer(cfg)
    if is_standard(trainer, "build_lr_scheduler"):
        find_schedule(cfg)
    if is_standard(trainer, "build_mapper"):
        find_family(cfg.INPUT.AUGMENTATION)
        find_targets(wanted_targets(cfg))


def is_standard(trainer: type[TrainerBase], method: str) -> bool:
    """Tell whether a class method of a trainer is `Trainer`'s own, not one of a subclass."""
    found, standard = (getattr(one, method) for one in (trainer, TRAINER_REGISTRY.get("Trainer")))
    return getattr(found, "__func__", found) is standard.__func__
