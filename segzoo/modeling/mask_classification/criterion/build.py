"""Build the criterion named in the configuration."""

from collections.abc import Callable

from torch import nn

from ...registry import CRITERION_REGISTRY, registered


def find_criterion(cfg) -> Callable[..., nn.Module]:
    """Return the criterion class that MODEL.MASK_FORMER.CRITERION_NAME names; it is built with `cfg`."""
    key = "MODEL.MASK_FORMER.CRITERION_NAME"
    return registered(CRITERION_REGISTRY, key, cfg.MODEL.MASK_FORMER.CRITERION_NAME)


def build_criterion(cfg) -> nn.Module:
    """Build the criterion of MODEL.MASK_FORMER.CRITERION_NAME."""
    return find_criterion(cfg)(cfg)
