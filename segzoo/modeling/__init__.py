"""Components of models: backbones, pixel decoders, heads, meta-architectures.

Importing it fills the registries.
"""

from . import backbones, detection, mask_classification, per_pixel
from .necks import build_neck, find_neck
from .plain_model import as_segmentation_model, as_segmentor
from .registry import (
    CRITERION_REGISTRY,
    LOSS_TERM_REGISTRY,
    MATCHING_COST_REGISTRY,
    NECK_REGISTRY,
    PIXEL_DECODER_REGISTRY,
    PIXEL_LOSS_REGISTRY,
    TRANSFORMER_DECODER_REGISTRY,
)
from .segmentor import Batch, DenseScores, SegmentationModel, Segmentor, Sizes

__all__ = [
    "CRITERION_REGISTRY",
    "LOSS_TERM_REGISTRY",
    "MATCHING_COST_REGISTRY",
    "NECK_REGISTRY",
    "PIXEL_DECODER_REGISTRY",
    "PIXEL_LOSS_REGISTRY",
    "TRANSFORMER_DECODER_REGISTRY",
    "Batch",
    "DenseScores",
    "SegmentationModel",
    "Segmentor",
    "Sizes",
    "as_segmentation_model",
    "as_segmentor",
    "backbones",
    "build_neck",
    "detection",
    "find_neck",
    "mask_classification",
    "per_pixel",
]
