"""The loss of mask classification: matching of queries with segments, and loss terms over the matched pairs.

`SetCriterion` is the version to read and to extend: terms (`LossTerm`), a matcher with costs (`QueryCost`,
`PixelCost`), a comparison of masks. `FusedSetCriterion` computes the same values faster.
"""

from .assignment import NonFiniteCostError, costs_on_cpu
from .build import build_criterion, find_criterion
from .comparison import AllPixels, UncertainPoints
from .costs import ClassCost, DiceCost, MaskCost, PixelCost, QueryCost
from .decoder_outputs import DecoderOutputs
from .fused_criterion import FusedSetCriterion
from .matched_layer import MatchedLayer
from .matcher import HungarianMatcher
from .pixel_losses import ComparedPixels
from .point_sampling import RandomPoints
from .set_criterion import SetCriterion
from .target_masks import SegmentTargets, targets_from_inputs
from .terms import ClassTerm, DiceTerm, LossTerm, MaskTerm

__all__ = [
    "AllPixels",
    "ClassCost",
    "ClassTerm",
    "ComparedPixels",
    "DecoderOutputs",
    "DiceCost",
    "DiceTerm",
    "FusedSetCriterion",
    "HungarianMatcher",
    "LossTerm",
    "MaskCost",
    "MaskTerm",
    "MatchedLayer",
    "NonFiniteCostError",
    "PixelCost",
    "QueryCost",
    "RandomPoints",
    "SegmentTargets",
    "SetCriterion",
    "UncertainPoints",
    "build_criterion",
    "costs_on_cpu",
    "find_criterion",
    "targets_from_inputs",
]
