"""Which targets a configuration's model learns from."""

import sys

from detectron2.config import CfgNode

from segzoo.utils.tasks import TASKS

# What models have that do not say otherwise.
STANDARD = ("segments",)
# Detectron2's own meta-architectures, beside the standard ones, where the labels have segments.
_DETECTRON2 = {
    "FCOS": ("instances",),
    "GeneralizedRCNN": ("instances",),
    "PanopticFPN": ("instances", "sem_seg"),
    "ProposalNetwork": ("instances",),
    "RetinaNet": ("instances",),
}


def wanted_targets(cfg: CfgNode) -> tuple[str, ...]:
    """Return the names of the targets: INPUT.TARGETS, else those that the meta-architecture asks for.

    It does so by its attribute `mapper_targets`, where it is imported already.
    """
    if cfg.INPUT.TARGETS:
        return tuple(cfg.INPUT.TARGETS)
    name = cfg.MODEL.META_ARCHITECTURE
    if name in _DETECTRON2:
        # GeneralizedRCNN is Detectron2's default: a configuration of data alone has it, too.
        return STANDARD if TASKS[cfg.TASK].from_classes else (*STANDARD, *_DETECTRON2[name])
    # Whoever reads a configuration need not wait for Detectron2's models.
    modeling = sys.modules.get("detectron2.modeling")
    if modeling is None or name not in modeling.META_ARCH_REGISTRY:
        return STANDARD
    return tuple(getattr(modeling.META_ARCH_REGISTRY.get(name), "mapper_targets", STANDARD))
