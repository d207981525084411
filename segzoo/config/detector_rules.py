"""Rules for the values of Detectron2's keys of two-stage detectors.

Rules that involve several keys, or the feature maps, are in `modeling/detection/checks.py`.
"""

import math
from collections.abc import Sequence
from typing import Any

from .rule_types import AMOUNT, BELOW_1, COUNT, SHARE, Rule, at_least, is_whole, one_of


def _positive(numbers: Any) -> bool:
    return not isinstance(numbers, str) and all(0 < number < math.inf for number in numbers)


def _of_levels(value: Any) -> bool:
    """Return whether a value has positive numbers for each level, or for all."""
    nested = [isinstance(level, Sequence) for level in value]
    if any(nested):
        return all(nested) and all(len(level) > 0 and _positive(level) for level in value)
    return len(value) > 0 and _positive(value)


def _weights(value: Any) -> bool:
    # Five for rotated boxes.
    return len(value) in (4, 5) and _positive(value)


def _shares(value: Any) -> bool:
    return len(value) > 0 and all(0 < share <= 1 for share in value)


_LEVELS = "expected a list of numbers above 0 for each level, or one such list for all, e.g. "
_LOSS_TYPE = one_of("smooth_l1", "giou", "diou", "ciou")
_LABELS = Rule(
    "expected one label for each range of IoU: 0 (negative), 1 (positive) or -1 (ignored)",
    lambda value: len(value) > 1 and all(label in (-1, 0, 1) for label in value),
)
_THRESHOLDS = Rule(
    "expected one or more numbers above 0 and at most 1, in rising order",
    lambda value: _shares(value) and list(value) == sorted(value),
)
_WEIGHTS = Rule("expected four numbers above 0, the weights of x, y, width and height", _weights)
_FROM_0 = at_least(0)

DETECTOR_GROUPS: dict[Rule, dict[str, str]] = {
    Rule(f"{_LEVELS}[[32], [64]]", _of_levels): {"MODEL.ANCHOR_GENERATOR": "SIZES"},
    Rule(f"{_LEVELS}[[0.5, 1.0, 2.0]]", _of_levels): {"MODEL.ANCHOR_GENERATOR": "ASPECT_RATIOS"},
    COUNT: {
        "MODEL.RPN": "BATCH_SIZE_PER_IMAGE PRE_NMS_TOPK_TRAIN PRE_NMS_TOPK_TEST POST_NMS_TOPK_TRAIN "
        "POST_NMS_TOPK_TEST",
        "MODEL.ROI_HEADS": "BATCH_SIZE_PER_IMAGE",
        "MODEL.ROI_BOX_HEAD": "POOLER_RESOLUTION FC_DIM CONV_DIM",
        "MODEL.ROI_MASK_HEAD": "POOLER_RESOLUTION CONV_DIM",
    },
    _FROM_0: {
        "MODEL.ROI_BOX_HEAD": "POOLER_SAMPLING_RATIO NUM_FC NUM_CONV",
        "MODEL.ROI_MASK_HEAD": "POOLER_SAMPLING_RATIO NUM_CONV",
    },
    BELOW_1: {"MODEL.ANCHOR_GENERATOR": "OFFSET"},
    AMOUNT: {
        "MODEL.PROPOSAL_GENERATOR": "MIN_SIZE",
        "MODEL.RPN": "BBOX_REG_LOSS_WEIGHT LOSS_WEIGHT SMOOTH_L1_BETA",
        "MODEL.ROI_BOX_HEAD": "BBOX_REG_LOSS_WEIGHT SMOOTH_L1_BETA",
    },
    SHARE: {
        "MODEL.RPN": "POSITIVE_FRACTION NMS_THRESH",
        "MODEL.ROI_HEADS": "POSITIVE_FRACTION NMS_THRESH_TEST SCORE_THRESH_TEST",
    },
    _THRESHOLDS: {"MODEL.RPN": "IOU_THRESHOLDS", "MODEL.ROI_HEADS": "IOU_THRESHOLDS"},
    _LABELS: {"MODEL.RPN": "IOU_LABELS", "MODEL.ROI_HEADS": "IOU_LABELS"},
    Rule("expected one or more numbers above 0 and at most 1", _shares): {
        "MODEL.ROI_BOX_CASCADE_HEAD": "IOUS"
    },
    _WEIGHTS: {"MODEL.RPN": "BBOX_REG_WEIGHTS", "MODEL.ROI_BOX_HEAD": "BBOX_REG_WEIGHTS"},
    Rule(
        "expected four numbers above 0 for each stage",
        lambda value: len(value) > 0 and all(_weights(stage) for stage in value),
    ): {"MODEL.ROI_BOX_CASCADE_HEAD": "BBOX_REG_WEIGHTS"},
    Rule(
        "expected the channels of each convolution, at least 1, or -1 for those of its input",
        lambda value: all(is_whole(width) and (width > 0 or width == -1) for width in value),
    ): {"MODEL.RPN": "CONV_DIMS"},
    _LOSS_TYPE: {"MODEL.RPN": "BBOX_REG_LOSS_TYPE", "MODEL.ROI_BOX_HEAD": "BBOX_REG_LOSS_TYPE"},
    one_of("ROIAlign", "ROIAlignV2", "ROIPool", "ROIAlignRotated"): {
        "MODEL.ROI_BOX_HEAD": "POOLER_TYPE",
        "MODEL.ROI_MASK_HEAD": "POOLER_TYPE",
    },
    Rule(
        'expected BN, SyncBN, FrozenBN, GN or "" for none',
        # The last ones are Detectron2's, for debugging.
        lambda value: (
            value in ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
        ),
    ): {"MODEL.ROI_BOX_HEAD": "NORM", "MODEL.ROI_MASK_HEAD": "NORM"},
}
