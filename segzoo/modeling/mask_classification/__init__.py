"""Mask classification: segmentation as a set of masks with one class each (MaskFormer and its successors)."""

from .fpn_pixel_decoder import FPNPixelDecoder, PixelDecoderOutput, TransformerFPNPixelDecoder
from .head import MaskFormerHead
from .meta_arch import MaskFormer

__all__ = [
    "FPNPixelDecoder",
    "MaskFormer",
    "MaskFormerHead",
    "PixelDecoderOutput",
    "TransformerFPNPixelDecoder",
]
