"""Mask2Former, masked attention for any segmentation task (Cheng et al., CVPR 2022)."""

from . import key_map
from .pixel_decoder import MSDeformAttnPixelDecoder
from .transformer_decoder import MultiScaleMaskedTransformerDecoder

__all__ = ["MSDeformAttnPixelDecoder", "MultiScaleMaskedTransformerDecoder", "key_map"]
