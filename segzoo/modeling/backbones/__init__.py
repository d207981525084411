"""Importing this package registers the backbones with Detectron2's BACKBONE_REGISTRY."""

from .cswin import CSWinTransformer
from .mit import MixTransformer, PyramidVisionTransformerV2
from .regnet import RegNetBackbone
from .resnet import ResNetBackbone
from .swin import SwinTransformer
from .timm_backbone import TimmBackbone
from .volo import VOLO
from .wide_resnet import WideResNetBackbone

__all__ = [
    "VOLO",
    "CSWinTransformer",
    "MixTransformer",
    "PyramidVisionTransformerV2",
    "RegNetBackbone",
    "ResNetBackbone",
    "SwinTransformer",
    "TimmBackbone",
    "WideResNetBackbone",
]
