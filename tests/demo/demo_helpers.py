"""Helpers shared by the tests of this folder."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = "panoptic/shapes/mask2former_r18_quarter"
# A random network has low scores: keep every segment.
OVERRIDES = (
    *("MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", "0.0"),
    *("MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", "0.0"),
    *("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "8"),
    *("MODEL.DEVICE", "cpu"),
)


def load_tool(path: str) -> ModuleType:
    """Import a script of the repository that is in no package."""
    file = REPOSITORY / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # spawned processes look functions up by name
    spec.loader.exec_module(module)
    return module
