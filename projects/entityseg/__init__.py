"""EntitySeg, class-agnostic segments with dynamic kernels (Qi et al., Open-World Entity Segmentation)."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

from .config import add_entityseg_config

if TYPE_CHECKING:
    from . import key_map
    from .meta_arch import EntitySeg
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = ["EntitySeg", "add_entityseg_config", "key_map"]
