"""The building kit: backbones, pixel decoders, heads, meta-architectures.

Importing it fills the registries.
"""

from . import backbones, mask_classification
from .registry import PIXEL_DECODER_REGISTRY, TRANSFORMER_DECODER_REGISTRY

__all__ = ["PIXEL_DECODER_REGISTRY", "TRANSFORMER_DECODER_REGISTRY", "backbones", "mask_classification"]
