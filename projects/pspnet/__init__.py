"""PSPNet, the pyramid scene parsing network (Zhao et al., CVPR 2017)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

from .config import add_pspnet_config

if TYPE_CHECKING:
    from . import key_map
    from .head import PSPHead
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["PSPHead", "add_pspnet_config", "key_map"]
