"""PSPNet, the pyramid scene parsing network (Zhao et al., CVPR 2017)."""

from . import key_map
from .config import add_pspnet_config
from .head import PSPHead

__all__ = ["PSPHead", "add_pspnet_config", "key_map"]
