"""segzoo: semantic, panoptic and entity segmentation on Detectron2, one code base and model zoo."""

from . import compat  # noqa: F401  first: makes the installed library versions work together

__version__ = "0.1.0"
