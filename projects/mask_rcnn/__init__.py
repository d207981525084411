"""Mask R-CNN, a mask for each detected box (He et al., ICCV 2017), as Detectron2 implements it."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

from .config import add_mask_rcnn_config

if TYPE_CHECKING:
    from . import key_map
    from .gluon_anchors import WindowAnchorGenerator
    from .gluon_roi_heads import GluonRes5ROIHeads, GluonROIHeads, PooledFCHead, SoftTargetMaskHead
    from .gluon_rpn import JointRPN
    from .meta_arch import MaskRCNN
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = [
    "GluonROIHeads",
    "GluonRes5ROIHeads",
    "JointRPN",
    "MaskRCNN",
    "PooledFCHead",
    "SoftTargetMaskHead",
    "WindowAnchorGenerator",
    "add_mask_rcnn_config",
    "key_map",
]
