"""The model zoo: from a name to a configuration, a model, its official weights and its published numbers."""

from .api import get, get_config, list_models, load_config
from .records import Published, WeightsInfo
from .registry import official_weights

__all__ = [
    "Published",
    "WeightsInfo",
    "get",
    "get_config",
    "list_models",
    "load_config",
    "official_weights",
]
