"""BiSeNet, a spatial path and a context path (Yu et al., ECCV 2018)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

from .config import add_bisenet_config

if TYPE_CHECKING:
    from . import key_map
    from .head import BiSeNetHead
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["BiSeNetHead", "add_bisenet_config", "key_map"]
