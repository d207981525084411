"""The model zoo: configurations, models, official weights and published results by name."""

from typing import TYPE_CHECKING

from segzoo.utils.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .api import get
    from .configs import get_config, load_config
    from .names import list_models
    from .records import Published, WeightsInfo
    from .registry import official_weights
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__all__ = [
    "Published",
    "WeightsInfo",
    "get",
    "get_config",
    "list_models",
    "load_config",
    "official_weights",
]
