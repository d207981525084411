"""CCNet: attention along rows and columns, repeated to reach every pixel (Huang et al., ICCV 2019)."""

from . import key_map
from .config import add_ccnet_config
from .head import CCNetHead

__all__ = ["CCNetHead", "add_ccnet_config", "key_map"]
