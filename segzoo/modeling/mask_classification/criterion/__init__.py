"""The loss of mask classification: matching, targets and loss terms."""

from .build import build_criterion
from .mask_predictions import MaskPredictions
from .matcher import HungarianMatcher, NonFiniteCostError
from .point_sampling import RandomPoints
from .set_criterion import SetCriterion
from .target_masks import SegmentTargets, targets_from_inputs

__all__ = [
    "HungarianMatcher",
    "MaskPredictions",
    "NonFiniteCostError",
    "RandomPoints",
    "SegmentTargets",
    "SetCriterion",
    "build_criterion",
    "targets_from_inputs",
]
