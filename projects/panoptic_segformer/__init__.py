"""Panoptic SegFormer, a location decoder and mask decoders for things and stuff (Li et al., CVPR 2022)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

from .config import add_panoptic_segformer_config

if TYPE_CHECKING:
    from . import key_map
    from .meta_arch import PanopticSegFormer
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["PanopticSegFormer", "add_panoptic_segformer_config", "key_map"]
