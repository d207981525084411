"""Build the criterion named in the configuration."""

from collections.abc import Callable

from torch import nn

from ...registry import CRITERION_REGISTRY, registered


def find_criterion(cfg) -> Callable[..., nn.Module]:
    """Return what MODEL.MASK_FORMER.CRITERION_NAME names; called with `cfg` it builds the criterion."""
    key = "MODEL.MASK_FORMER.CRITERION_NAME"
    return registered(CRITERION_REGISTRY, key, cfg.MODEL.MASK_FORMER.CRITERION_NAME)


def build_criterion(cfg) -> nn.Module:
    """Build the criterion of MODEL.MASK_FORMER.CRITERION_NAME."""
    return find_criterion(cfg)(cfg)
