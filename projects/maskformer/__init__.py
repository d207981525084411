"""MaskFormer, segmentation as a set of masks with a class each (Cheng et al., NeurIPS 2021)."""

from . import key_map
from .transformer_decoder import MaskFormerTransformerDecoder

__all__ = ["MaskFormerTransformerDecoder", "key_map"]
