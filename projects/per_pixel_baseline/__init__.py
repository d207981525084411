"""The per-pixel baselines of MaskFormer (Cheng et al., NeurIPS 2021, section 4.1)."""

from . import key_map
from .head import PerPixelBaselineHead, PerPixelBaselinePlusHead

__all__ = ["PerPixelBaselineHead", "PerPixelBaselinePlusHead", "key_map"]
