"""segzoo: semantic, panoptic, instance and entity segmentation on Detectron2, one code base and model zoo."""

from typing import TYPE_CHECKING

from . import compat  # first: makes the installed library versions work together
from .utils.detectron2_registries import fill_detectron2_registries
from .utils.import_hooks import after_import
from .utils.lazy_exports import lazy_exports
from .utils.moved import find_moved_modules
from .utils.published_hashes import register_hashes
from .utils.published_names import register_names

if TYPE_CHECKING:
    from . import (
        checkpoint,
        config,
        data,
        engine,
        evaluation,
        export,
        model_zoo,
        modeling,
        solver,
        visualization,
    )
else:
    __getattr__, __dir__ = lazy_exports(__name__)

__version__ = "0.2.0"
__all__ = [
    "checkpoint",
    "compat",
    "config",
    "data",
    "engine",
    "evaluation",
    "export",
    "model_zoo",
    "modeling",
    "solver",
    "visualization",
]

find_moved_modules()
after_import("detectron2.modeling", fill_detectron2_registries)
register_hashes("segzoo.model_zoo.registry")
register_names("segzoo.model_zoo.registry")
