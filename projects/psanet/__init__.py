"""PSANet, point-wise spatial attention (Zhao et al., ECCV 2018)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

from .config import add_psanet_config

if TYPE_CHECKING:
    from . import key_map
    from .head import PSAHead
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["PSAHead", "add_psanet_config", "key_map"]
