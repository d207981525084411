"""Table of the keys of Detectron2, MaskFormer and Mask2Former that differ in segzoo, in order of conversion.

COMING_FROM.md shows the same table. Keys that are not in it have the same name and meaning.
"""

from . import entityseg
from .backbones import RESNET_ROWS, SWIN_ROWS
from .heads import ARCHITECTURE_ROW, HEAD_ROWS
from .training import INPUT_ROWS, TASK_ROWS, TEST_ROWS, WEIGHTS_ROW

# A conversion may use the results of the rows above it.
ROWS = (
    ARCHITECTURE_ROW,
    *TASK_ROWS,
    *RESNET_ROWS,
    *SWIN_ROWS,
    *entityseg.BACKBONE_ROWS,
    WEIGHTS_ROW,
    *HEAD_ROWS,
    *INPUT_ROWS,
    *TEST_ROWS,
    *entityseg.ROWS,
)

# All keys that are converted.
CONVERTED = frozenset(key for row in ROWS for key in row.keys)
