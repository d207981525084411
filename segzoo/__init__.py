"""segzoo: semantic, panoptic and entity segmentation on Detectron2, one code base and model zoo."""

from . import compat  # noqa: F401  first: makes the installed library versions work together
from .utils.import_hooks import after_import
from .utils.methods import fill_detectron2_registries

__version__ = "0.1.0"

after_import("detectron2.modeling", fill_detectron2_registries)
