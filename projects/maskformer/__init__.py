"""MaskFormer, segmentation as a set of masks with one class each (Cheng et al., NeurIPS 2021)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from . import key_map
    from .transformer_decoder import MaskFormerTransformerDecoder
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["MaskFormerTransformerDecoder", "key_map"]
