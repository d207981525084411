"""BiSeNet: a path for detail beside one for context (Yu et al., ECCV 2018)."""

from . import key_map
from .config import add_bisenet_config
from .head import BiSeNetHead

__all__ = ["BiSeNetHead", "add_bisenet_config", "key_map"]
