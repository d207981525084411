"""Parts that detectors share, besides Detectron2's: the feature pyramid, and the pasting of masks."""

from .fpn import FPN
from .paste import paste_masks

__all__ = ["FPN", "paste_masks"]
