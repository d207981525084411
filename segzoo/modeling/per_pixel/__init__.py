"""Segmentation as a class for every pixel: what FCN, PSPNet, DeepLab, SegFormer and their like share."""

from . import losses
from .aspp import ASPP
from .fcn_head import FCNHead
from .head import PixelHead
from .meta_arch import PerPixelSegmentor
from .pyramid_pooling import PyramidPooling

__all__ = ["ASPP", "FCNHead", "PerPixelSegmentor", "PixelHead", "PyramidPooling", "losses"]
