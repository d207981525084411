"""The keys of Detectron2, MaskFormer and Mask2Former that are others here: one table, in order of conversion.

COMING_FROM.md shows the same table. Keys that are in neither have the same name and meaning.
"""

from .backbones import RESNET_ROWS, SWIN_ROWS
from .heads import ARCHITECTURE_ROW, HEAD_ROWS
from .training import INPUT_ROWS, TASK_ROWS, TEST_ROWS, WEIGHTS_ROW

# A conversion may look at what the rows above it gave.
ROWS = (
    ARCHITECTURE_ROW,
    *TASK_ROWS,
    *RESNET_ROWS,
    *SWIN_ROWS,
    WEIGHTS_ROW,
    *HEAD_ROWS,
    *INPUT_ROWS,
    *TEST_ROWS,
)

# Their keys that are not the same here.
CONVERTED = frozenset(key for row in ROWS for key in row.keys)
