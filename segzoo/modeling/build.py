"""Building of the model that a configuration names."""

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling import build_model as build_known_model
from torch import nn

from .registry import registered


def build_model(cfg: CfgNode) -> nn.Module:
    """Build MODEL.META_ARCHITECTURE on MODEL.DEVICE, with random weights.

    Raises:
        InputError: no such architecture.
    """
    find_architecture(cfg)
    return build_known_model(cfg)


def find_architecture(cfg: CfgNode) -> type[nn.Module]:
    """Return the class that MODEL.META_ARCHITECTURE names.

    Raises:
        InputError: no such architecture.
    """
    return registered(META_ARCH_REGISTRY, "MODEL.META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE)
