"""Mask R-CNN, a mask for each detected box (He et al., ICCV 2017), as Detectron2 implements it."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from . import key_map
    from .meta_arch import MaskRCNN
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["MaskRCNN", "key_map"]
