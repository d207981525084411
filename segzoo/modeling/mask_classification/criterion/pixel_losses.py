"""Losses of mask logits against membership in a segment, shared by matching costs and loss terms.

Shape shorthand: M masks, S segments of an image, P pixels or points.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

MASK_LOSSES = ("focal", "bce")
FOCAL_ALPHA = 0.25  # the exponent gamma is 2 throughout


def check_mask_loss(mask_loss: str) -> None:
    """Raise ValueError unless `mask_loss` is the name of a loss."""
    if mask_loss not in MASK_LOSSES:
        raise ValueError(f"mask_loss {mask_loss!r} is unknown; use one of {', '.join(MASK_LOSSES)}")


class ComparedPixels:
    """Mask logits and segments at the same pixels or points.

    Attributes:
        logits: (M, P) float.
        membership: float in [0, 1]: (M, P), of each mask in its segment, for losses; (P, S), of each pixel in
            all segments, for matching costs.
        probability: (M, P), the sigmoid of the logits.
    """

    def __init__(self, logits: Tensor, membership: Tensor):
        self.logits = logits
        self.membership = membership

    @cached_property
    def probability(self) -> Tensor:
        return self.logits.sigmoid()


def mask_losses(masks: ComparedPixels, mask_loss: str) -> Tensor:
    """Return the mean focal loss or binary cross-entropy of each mask, (M,).

    Args:
        masks: M masks, each with its segment.
        mask_loss: "focal" (sigmoid focal loss, alpha 0.25, gamma 2) or "bce".
    """
    membership = masks.membership
    losses = F.binary_cross_entropy_with_logits(masks.logits, membership, reduction="none")
    if mask_loss == "focal":
        # p (1 - t) + (1 - p) t
        miss = torch.addcmul(membership, masks.probability, 1 - 2 * membership)
        balance = (2 * FOCAL_ALPHA - 1) * membership + (1 - FOCAL_ALPHA)
        losses = losses * miss.square() * balance
    return losses.mean(1)


def dice_losses(masks: ComparedPixels) -> Tensor:
    """Return 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1) for each mask, (M,): p probability, t membership.

    Args:
        masks: M masks, each with its segment.
    """
    overlap = (masks.probability * masks.membership).sum(1)
    return 1 - (2 * overlap + 1) / (masks.probability.sum(1) + masks.membership.sum(1) + 1)
