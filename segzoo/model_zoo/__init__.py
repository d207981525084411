"""The model zoo: from a name to a configuration, a model, its official weights and its published numbers."""

from .configs import load_config
from .from_checkpoint import model_config
from .official import Published, WeightsInfo, official_weights
from .zoo import get, get_config, list_models

__all__ = [
    "Published",
    "WeightsInfo",
    "get",
    "get_config",
    "list_models",
    "load_config",
    "model_config",
    "official_weights",
]
