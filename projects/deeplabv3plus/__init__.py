"""DeepLabV3+ (Chen et al., ECCV 2018), and with relaxed boundaries, VPLR (Zhu et al., CVPR 2019)."""

from . import key_map
from .boundary_loss import BoundaryRelaxedCrossEntropy
from .config import add_deeplabv3plus_config
from .head import ASPPDecoderHead, VPLRHead

__all__ = [
    "ASPPDecoderHead",
    "BoundaryRelaxedCrossEntropy",
    "VPLRHead",
    "add_deeplabv3plus_config",
    "key_map",
]
