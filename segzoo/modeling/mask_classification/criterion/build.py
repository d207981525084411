"""Build the criterion named in the configuration."""

from torch import nn

from ...registry import CRITERION_REGISTRY, registered


def build_criterion(cfg) -> nn.Module:
    """Build the criterion named by MODEL.MASK_FORMER.CRITERION_NAME."""
    name = cfg.MODEL.MASK_FORMER.CRITERION_NAME
    return registered(CRITERION_REGISTRY, "MODEL.MASK_FORMER.CRITERION_NAME", name)(cfg)
