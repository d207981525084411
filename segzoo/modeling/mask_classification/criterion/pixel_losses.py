"""Losses of mask logits against a membership in a segment, the same in matching costs and loss terms.

Shape shorthand: M masks, P pixels or points.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

MASK_LOSSES = ("focal", "bce")
FOCAL_ALPHA = 0.25  # the exponent gamma is 2 throughout


def check_mask_loss(mask_loss: str) -> None:
    """Raise ValueError unless there is a loss of this name."""
    if mask_loss not in MASK_LOSSES:
        raise ValueError(f"mask_loss {mask_loss!r} is unknown; use one of {', '.join(MASK_LOSSES)}")


def mask_losses(logits: Tensor, membership: Tensor, mask_loss: str) -> Tensor:
    """Return the mean focal loss or binary cross-entropy of each mask, (M,).

    Args:
        logits: (M, P) float.
        membership: (M, P) float in [0, 1].
        mask_loss: "focal" (sigmoid focal loss, alpha 0.25, gamma 2) or "bce".
    """
    losses = F.binary_cross_entropy_with_logits(logits, membership, reduction="none")
    if mask_loss == "focal":
        probability = logits.sigmoid()
        miss = probability * (1 - membership) + (1 - probability) * membership
        balance = FOCAL_ALPHA * membership + (1 - FOCAL_ALPHA) * (1 - membership)
        losses = losses * balance * miss.square()
    return losses.mean(1)


def dice_losses(logits: Tensor, membership: Tensor) -> Tensor:
    """Return 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1) of each mask, (M,), with p = sigmoid(logits).

    Args:
        logits: (M, P) float.
        membership: t, (M, P) float in [0, 1].
    """
    probability = logits.sigmoid()
    overlap = (probability * membership).sum(1)
    return 1 - (2 * overlap + 1) / (probability.sum(1) + membership.sum(1) + 1)
