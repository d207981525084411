"""CCNet, attention along rows and columns, repeated to reach every pixel (Huang et al., ICCV 2019)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

from .config import add_ccnet_config

if TYPE_CHECKING:
    from . import key_map
    from .head import CCNetHead
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["CCNetHead", "add_ccnet_config", "key_map"]
