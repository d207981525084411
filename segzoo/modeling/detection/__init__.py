"""Parts that detectors share, besides Detectron2's: the feature pyramid."""

from .fpn import FPN

__all__ = ["FPN"]
