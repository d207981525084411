"""SegFormer, a pyramid transformer with an all-linear head (Xie et al., NeurIPS 2021)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

from .config import add_segformer_config

if TYPE_CHECKING:
    from . import key_map
    from .head import SegFormerHead
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["SegFormerHead", "add_segformer_config", "key_map"]
