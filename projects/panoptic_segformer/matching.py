"""Matching of queries with things, and the query filter (section 3.5 of the paper).

Shape shorthand: Q queries, T thing classes, G things of an image, D layers, h w size of a mask.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .boxes import edges, generalized_iou
from .targets import ThingsAndStuff

ALPHA, GAMMA = 0.25, 2.0
# Against the logarithm of 0.
_EPS = 1e-12
# Added to the squares in the dice of the cost; the loss has another value.
_DICE_EPS = 1e-3
# Cost of a query that an earlier round has chosen.
_CHOSEN = 1e7


def class_costs(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the focal costs of classes: (..., Q, T) logits and (G,) classes to (..., Q, G)."""
    p = logits.sigmoid()
    positive = ALPHA * (1 - p) ** GAMMA * -(p + _EPS).log()
    negative = (1 - ALPHA) * p**GAMMA * -(1 - p + _EPS).log()
    return (positive - negative)[..., classes]


def location_costs(
    logits: Tensor,
    boxes: Tensor,
    target: ThingsAndStuff,
    class_weight: float,
    box_weight: float,
    iou_weight: float,
) -> Tensor:
    """Return the costs between queries and things by class and box, (..., Q, G).

    Args:
        logits: (..., Q, T) float.
        boxes: (..., Q, 4) float, center and size in units of the image.
        target: ground truth with G things.
        class_weight, box_weight, iou_weight: weights of the focal cost, of the L1 distance of the boxes,
            and of their generalized IoU in pixels.
    """
    distances = (boxes[..., :, None, :] - target.image_boxes).abs().sum(-1)
    ious = generalized_iou(edges(boxes)[..., :, None, :] * target.size, target.boxes)
    costs = class_weight * class_costs(logits, target.thing_classes)
    return costs + box_weight * distances - iou_weight * ious


def dice_costs(masks: Tensor, target: Tensor) -> Tensor:
    """Return 1 - dice of (Q, h, w) predicted and (G, h, w) true masks, (Q, G)."""
    masks, target = masks.flatten(1), target.flatten(1)
    squares = (masks.square().sum(1) + _DICE_EPS)[:, None] + (target.square().sum(1) + _DICE_EPS)
    return 1 - 2 * (masks @ target.t()) / squares


def filter_queries(cost: np.ndarray, rounds: int) -> np.ndarray:
    """Return the queries whose masks are trained, ascending.

    Each round matches every thing with another query. There are as many rounds as fit: with G things at most
    Q // G, but at least one. With more things than queries all queries are kept.

    Args:
        cost: (Q, G).
        rounds: maximum number of rounds.
    """
    num_queries, num_things = cost.shape
    if num_things == 0:
        return np.zeros(0, dtype=np.int64)
    cost, kept = cost.copy(), []
    for _ in range(max(min(rounds, num_queries // num_things), 1)):
        rows, _columns = linear_sum_assignment(cost)
        kept.append(rows)
        cost[rows] = _CHOSEN
    return np.unique(np.concatenate(kept))
