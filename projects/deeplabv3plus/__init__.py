"""DeepLabV3+ (Chen et al., ECCV 2018), and VPLR with relaxed boundaries (Zhu et al., CVPR 2019)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

from .config import add_deeplabv3plus_config

if TYPE_CHECKING:
    from . import key_map
    from .boundary_loss import BoundaryRelaxedCrossEntropy
    from .head import ASPPDecoderHead, VPLRHead
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = [
    "ASPPDecoderHead",
    "BoundaryRelaxedCrossEntropy",
    "VPLRHead",
    "add_deeplabv3plus_config",
    "key_map",
]
