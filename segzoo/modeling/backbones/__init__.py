"""Importing this package registers the backbones with Detectron2's BACKBONE_REGISTRY."""

from .resnet import ResNetBackbone
from .swin import SwinTransformer

__all__ = ["ResNetBackbone", "SwinTransformer"]
