"""DANet, attention between positions and between channels (Fu et al., CVPR 2019)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

from .config import add_danet_config

if TYPE_CHECKING:
    from . import key_map
    from .head import DANetHead
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["DANetHead", "add_danet_config", "key_map"]
