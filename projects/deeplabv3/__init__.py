"""DeepLabV3, atrous spatial pyramid pooling (Chen et al., 2017)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

from .config import add_deeplabv3_config

if TYPE_CHECKING:
    from . import key_map
    from .head import ASPPHead
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["ASPPHead", "add_deeplabv3_config", "key_map"]
