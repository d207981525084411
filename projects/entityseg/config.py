"""The configuration keys of EntitySeg."""

import math
from itertools import pairwise
from typing import Any

from detectron2.config import CfgNode

from segzoo.config import AMOUNT, COUNT, POSITIVE, SHARE, Rule, at_least, one_of, register_config

# Every layer is an entity's own (1) or one of the shared bank (0).
PATHS = ("111", "110", "101", "100", "011", "010", "001")
# Groups of GroupNorm.
CHANNEL_GROUPS = 32


def _weights(value: Any) -> bool:
    names = [name for name, _ in value]
    numbers = all(0 <= weight < math.inf and not isinstance(weight, bool) for _, weight in value)
    numbers = numbers and any(weight for _, weight in value)
    return numbers and set(names) <= set(PATHS) and len(set(names)) == len(names) and "111" in names


@register_config(
    rules={
        "MODEL.ENTITYSEG.NUM_CONVS": at_least(0),
        "MODEL.ENTITYSEG.KERNEL_CONVS_DIM": Rule(
            f"expected a multiple of {CHANNEL_GROUPS} above 0",
            lambda value: value > 0 and value % CHANNEL_GROUPS == 0,
        ),
        "MODEL.ENTITYSEG.KERNEL_NUM_CONVS": COUNT,
        "MODEL.ENTITYSEG.MASK_CONVS_DIM": COUNT,
        "MODEL.ENTITYSEG.MASK_NUM_CONVS": at_least(0),
        "MODEL.ENTITYSEG.MASK_NORM": one_of("", "BN", "SyncBN", "FrozenBN", "GN"),
        "MODEL.ENTITYSEG.SIZE_RANGES": Rule(
            "expected sizes in pixels in rising order",
            lambda value: (
                all(0 < size < math.inf for size in value)
                and all(low < high for low, high in pairwise(value))
            ),
        ),
        "MODEL.ENTITYSEG.CENTER_RADIUS": POSITIVE,
        "MODEL.ENTITYSEG.PATH_WEIGHTS": Rule(
            "expected pairs of a path and a weight of at least 0, one of them above 0, each of "
            f"{', '.join(PATHS)} at most once and 111 among them",
            _weights,
        ),
        "MODEL.ENTITYSEG.OVERLAP_WEIGHT": AMOUNT,
        "MODEL.ENTITYSEG.MAX_MASKS_PER_IMAGE": COUNT,
        "MODEL.ENTITYSEG.MAX_MASKS": COUNT,
        "MODEL.ENTITYSEG.TEST.SCORE_THRESHOLD": SHARE,
        "MODEL.ENTITYSEG.TEST.CANDIDATES_PER_LEVEL": COUNT,
        "MODEL.ENTITYSEG.TEST.NMS_THRESHOLD": SHARE,
    }
)
def add_entityseg_config(cfg: CfgNode) -> None:
    """Add MODEL.ENTITYSEG, in place. The pyramid is a neck, see MODEL.NECK and MODEL.FPN."""
    node = cfg.MODEL.ENTITYSEG = CfgNode()
    # Number of convolutions of the towers for scores and boxes; their channels are MODEL.FPN.OUT_CHANNELS.
    node.NUM_CONVS = 4
    # Channels (a multiple of 32) and number of convolutions of the head that predicts mask networks.
    node.KERNEL_CONVS_DIM = 256
    node.KERNEL_NUM_CONVS = 3
    # The same of the branch that computes mask features, and its norm: BN (as published) | SyncBN |
    # FrozenBN | GN | "" for none.
    node.MASK_CONVS_DIM = 128
    node.MASK_NUM_CONVS = 4
    node.MASK_NORM = "BN"
    # Between these sizes in pixels, the largest distance from a location to a side of the box decides which
    # level of the pyramid predicts an entity: one number less than there are levels.
    node.SIZE_RANGES = (64, 128, 256, 512)
    # Locations within this number of strides of an entity's center of mass are positive.
    node.CENTER_RADIUS = 1.5
    # Training: weight of the mask loss for each path through the entity's own layers (1) and the shared bank
    # (0). Paths with weight 0 are not computed; with 111 alone there is no bank.
    node.PATH_WEIGHTS = [
        ["111", 1.0],
        ["110", 1.0],
        ["101", 1.0],
        ["100", 1.0],
        ["011", 0.25],
        ["010", 0.25],
        ["001", 0.25],
    ]
    # Training: weight of the loss that suppresses overlaps between the entities of an image; 0: none.
    node.OVERLAP_WEIGHT = 0.5
    # Training: masks are computed at a random choice of the positive locations of a process, at most this
    # number per image on average, and at most the second number in total.
    node.MAX_MASKS_PER_IMAGE = 120
    node.MAX_MASKS = 500
    node.TEST = CfgNode()
    # Locations are candidates if their probability, without centerness, is above this.
    node.TEST.SCORE_THRESHOLD = 0.05
    # Candidates per level before non-maximum suppression, and the IoU of boxes above which the worse one is
    # suppressed. TEST.DETECTIONS_PER_IMAGE entities remain.
    node.TEST.CANDIDATES_PER_LEVEL = 1000
    node.TEST.NMS_THRESHOLD = 0.6
    # Multiply scores by the mean probability of the visible pixels of the mask.
    node.TEST.MASK_RESCORE = False
