"""OCNet, object context by self-attention (Yuan and Wang, arXiv:1809.00916)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from . import key_map
    from .head import OCNetASPHead, OCNetBaseHead
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["OCNetASPHead", "OCNetBaseHead", "key_map"]
