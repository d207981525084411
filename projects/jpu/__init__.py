"""Joint pyramid upsampling, the neck of FastFCN (Wu et al., arXiv:1903.11816)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

from .config import add_jpu_config

if TYPE_CHECKING:
    from . import key_map
    from .neck import JPU
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["JPU", "add_jpu_config", "key_map"]
