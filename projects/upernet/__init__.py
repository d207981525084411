"""UPerNet, pyramid pooling under a feature pyramid (Xiao et al., ECCV 2018)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

from .config import add_upernet_config

if TYPE_CHECKING:
    from . import key_map
    from .head import UPerNetHead
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["UPerNetHead", "add_upernet_config", "key_map"]
