"""SegFormer: a pyramid transformer under a head of linear layers only (Xie et al., NeurIPS 2021)."""

from . import key_map
from .config import add_segformer_config
from .head import SegFormerHead

__all__ = ["SegFormerHead", "add_segformer_config", "key_map"]
