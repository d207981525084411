"""Parts that detectors share besides Detectron2's: a feature pyramid, and masks at the size of the image."""

from .fpn import FPN
from .paint import aligned_weights, paint_ranked
from .paste import paste_masks

__all__ = ["FPN", "aligned_weights", "paint_ranked", "paste_masks"]
