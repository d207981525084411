"""Mask2Former, masked attention for any segmentation task (Cheng et al., CVPR 2022)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from . import key_map
    from .pixel_decoder import MSDeformAttnPixelDecoder
    from .transformer_decoder import MultiScaleMaskedTransformerDecoder
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["MSDeformAttnPixelDecoder", "MultiScaleMaskedTransformerDecoder", "key_map"]
