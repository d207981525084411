"""Joint pyramid upsampling, the neck of FastFCN (Wu et al., arXiv:1903.11816)."""

from . import key_map
from .config import add_jpu_config
from .neck import JPU

__all__ = ["JPU", "add_jpu_config", "key_map"]
