"""UPerNet: pyramid pooling under a feature pyramid (Xiao et al., ECCV 2018)."""

from . import key_map
from .config import add_upernet_config
from .head import UPerNetHead

__all__ = ["UPerNetHead", "add_upernet_config", "key_map"]
