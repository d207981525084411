"""The per-pixel baselines of MaskFormer (Cheng et al., NeurIPS 2021, section 4.1)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from . import key_map
    from .head import PerPixelBaselineHead, PerPixelBaselinePlusHead
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["PerPixelBaselineHead", "PerPixelBaselinePlusHead", "key_map"]
