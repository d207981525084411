"""DANet: attention between positions and between channels (Fu et al., CVPR 2019)."""

from . import key_map
from .config import add_danet_config
from .head import DANetHead

__all__ = ["DANetHead", "add_danet_config", "key_map"]
