"""Mask2Former, one architecture with masked attention for every task (Cheng et al., CVPR 2022)."""

from . import key_map
from .transformer_decoder import MultiScaleMaskedTransformerDecoder

__all__ = ["MultiScaleMaskedTransformerDecoder", "key_map"]
