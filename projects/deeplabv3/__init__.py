"""DeepLabV3, atrous spatial pyramid pooling (Chen et al., 2017)."""

from . import key_map
from .config import add_deeplabv3_config
from .head import ASPPHead

__all__ = ["ASPPHead", "add_deeplabv3_config", "key_map"]
