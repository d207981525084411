"""The targets that a configuration's model learns from."""

import sys

from detectron2.config import CfgNode

from segzoo.utils.errors import InputError
from segzoo.utils.tasks import TASKS

# The targets of models that name no others.
STANDARD = ("segments",)
# Further targets of Detectron2's meta-architectures and derived classes, if the labels have segments.
_DETECTRON2 = {
    "FCOS": ("instances",),
    "GeneralizedRCNN": ("instances",),
    "ProposalNetwork": ("instances",),
    "RetinaNet": ("instances",),
}
# `mapper_targets` of segzoo's own two-stage models, which reading a configuration does not import.
TWO_STAGE = {"MaskRCNN": ("instances",)}
_PANOPTIC_FPN = "PanopticFPN"


def wanted_targets(cfg: CfgNode) -> tuple[str, ...]:
    """Return the names of the targets: INPUT.TARGETS, else those that the meta-architecture asks for.

    A meta-architecture that is imported already names them in its attribute `mapper_targets`. A class without
    it that is derived from a detector of Detectron2 gets the targets of that detector.

    Raises:
        InputError: the model is PanopticFPN, whose labels segzoo does not make.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    model = None if name in _DETECTRON2 else _registered(name)
    asked_for = getattr(model, "mapper_targets", TWO_STAGE.get(name))
    names = [name, *(base.__name__ for base in getattr(model, "__mro__", ()))]
    if asked_for is None and _PANOPTIC_FPN in names:
        raise InputError(
            f"MODEL.META_ARCHITECTURE {name}: segzoo does not make the labels of {_PANOPTIC_FPN}, whose "
            "semantic head numbers stuff from 1 and has 0 for all things; use MaskFormer, or GeneralizedRCNN "
            "with TASK instance"
        )
    if cfg.INPUT.TARGETS:
        return tuple(cfg.INPUT.TARGETS)
    if asked_for is not None:
        return tuple(asked_for)
    known = next((_DETECTRON2[one] for one in names if one in _DETECTRON2), ())
    # GeneralizedRCNN is Detectron2's default, so configurations that set only the data have it.
    return STANDARD if TASKS[cfg.TASK].from_classes else (*STANDARD, *known)


def _registered(name: str) -> object:
    """Return the meta-architecture of this name; None if it is unknown or not imported."""
    # Reading a configuration must not import Detectron2's models.
    modeling = sys.modules.get("detectron2.modeling")
    if modeling is None or name not in modeling.META_ARCH_REGISTRY:
        return None
    return modeling.META_ARCH_REGISTRY.get(name)
