"""segzoo: semantic, panoptic and entity segmentation on Detectron2, one code base and model zoo."""

from pathlib import Path

from . import compat  # noqa: F401  first: makes the installed library versions work together

__version__ = "0.1.0"

# In a source tree projects/ stands beside this package; in an installed one it is segzoo/projects.
_source_root = Path(__file__).resolve().parent.parent
if (_source_root / "projects" / "__init__.py").is_file():
    __path__.append(str(_source_root))
