"""Finds names in a configuration that nothing is registered by, before anything is built."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from fvcore.common.registry import Registry

from segzoo.data.augmentation.build import find_family
from segzoo.data.training_targets import find_targets
from segzoo.data.wanted_targets import wanted_targets
from segzoo.evaluation.registry import check_names_beside
from segzoo.modeling.mask_classification.criterion import SetCriterion
from segzoo.modeling.mask_classification.head import MaskFormerHead
from segzoo.modeling.mask_classification.meta_arch import MaskFormer
from segzoo.modeling.per_pixel.meta_arch import PerPixelSegmentor, check_pixel_head
from segzoo.modeling.protocols import check_preset
from segzoo.modeling.registry import (
    CRITERION_REGISTRY,
    LOSS_TERM_REGISTRY,
    MATCHING_COST_REGISTRY,
    NECK_REGISTRY,
    PIXEL_DECODER_REGISTRY,
    PIXEL_LOSS_REGISTRY,
    TRANSFORMER_DECODER_REGISTRY,
)
from segzoo.solver import find_optimizer, find_schedule
from segzoo.utils.registries import registered

from .trainer_registry import TRAINER_REGISTRY


def check_names(cfg: CfgNode, trainer: type, *, trains: bool = True) -> None:
    """Check the names of the parts that a configuration is run with: the keys of `segzoo.config.rules.NAMES`.

    Names that a trainer looks up by itself, since it replaces a method that builds, are left to it, and so
    are those of a model that is no subclass of the standard families.

    Args:
        cfg: complete.
        trainer: the subclass of `Trainer` that runs it.
        trains: False: only what an evaluation builds.

    Raises:
        InputError: nothing is registered by one of them, in segzoo, Detectron2 or a module of IMPORTS.
    """
    if is_standard(trainer, "build_model"):
        for part in _parts_of_model(cfg):
            registered(part.registry, part.key, part.name)
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


def is_standard(trainer: type, method: str) -> bool:
    """Whether a class method of a trainer is that of `Trainer`, and no subclass has replaced it."""
    found, standard = (getattr(one, method) for one in (trainer, TRAINER_REGISTRY.get("Trainer")))
    return getattr(found, "__func__", found) is standard.__func__


class _Part(NamedTuple):
    registry: Registry
    key: str
    name: str


def _parts_of_model(cfg: CfgNode) -> Iterator[_Part]:
    """The parts, those first that say which others there are."""
    model, head, mask_former = cfg.MODEL, cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    yield _Part(META_ARCH_REGISTRY, "MODEL.META_ARCHITECTURE", model.META_ARCHITECTURE)
    yield _Part(BACKBONE_REGISTRY, "MODEL.BACKBONE.NAME", model.BACKBONE.NAME)
    family = META_ARCH_REGISTRY.get(model.META_ARCHITECTURE)
    if _is_subclass(family, PerPixelSegmentor):
        if model.NECK.NAME:
            yield _Part(NECK_REGISTRY, "MODEL.NECK.NAME", model.NECK.NAME)
        check_pixel_head("MODEL.SEM_SEG_HEAD.NAME", head.NAME)
        if model.AUX_HEAD.NAME:
            check_pixel_head("MODEL.AUX_HEAD.NAME", model.AUX_HEAD.NAME)
        yield _Part(PIXEL_LOSS_REGISTRY, "MODEL.SEM_SEG_HEAD.LOSS.NAME", head.LOSS.NAME)
    if not _is_subclass(family, MaskFormer):
        return
    yield _Part(SEM_SEG_HEADS_REGISTRY, "MODEL.SEM_SEG_HEAD.NAME", head.NAME)
    if _is_subclass(SEM_SEG_HEADS_REGISTRY.get(head.NAME), MaskFormerHead):
        key = "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME"
        yield _Part(PIXEL_DECODER_REGISTRY, key, head.PIXEL_DECODER_NAME)
        key = "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"
        yield _Part(TRANSFORMER_DECODER_REGISTRY, key, mask_former.TRANSFORMER_DECODER_NAME)
    key = "MODEL.MASK_FORMER.CRITERION_NAME"
    yield _Part(CRITERION_REGISTRY, key, mask_former.CRITERION_NAME)
    if _is_subclass(CRITERION_REGISTRY.get(mask_former.CRITERION_NAME), SetCriterion):
        yield from _each(LOSS_TERM_REGISTRY, "MODEL.MASK_FORMER.LOSS_TERMS", mask_former.LOSS_TERMS)
        key = "MODEL.MASK_FORMER.MATCHING_COSTS"
        yield from _each(MATCHING_COST_REGISTRY, key, mask_former.MATCHING_COSTS)


def _each(registry: Registry, key: str, names: Sequence[str]) -> Iterator[_Part]:
    yield from (_Part(registry, key, name) for name in names)


def _is_subclass(found: object, base: type) -> bool:
    return isinstance(found, type) and issubclass(found, base)
