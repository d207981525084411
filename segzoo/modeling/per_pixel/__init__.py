"""Per-pixel classification: the common parts of FCN, PSPNet, DeepLab, SegFormer and similar methods."""

from . import losses
from .aspp import ASPP
from .fcn_head import FCNHead
from .head import PixelHead
from .meta_arch import PerPixelSegmentor
from .pyramid_pooling import PyramidPooling

__all__ = ["ASPP", "FCNHead", "PerPixelSegmentor", "PixelHead", "PyramidPooling", "losses"]
