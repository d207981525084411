"""OCNet: object context by self-attention (Yuan and Wang, arXiv:1809.00916)."""

from . import key_map
from .head import OCNetASPHead, OCNetBaseHead

__all__ = ["OCNetASPHead", "OCNetBaseHead", "key_map"]
