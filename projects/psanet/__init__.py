"""PSANet, point-wise spatial attention (Zhao et al., ECCV 2018)."""

from . import key_map
from .config import add_psanet_config
from .head import PSAHead

__all__ = ["PSAHead", "add_psanet_config", "key_map"]
