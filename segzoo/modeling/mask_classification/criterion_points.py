"""Mask losses on points that are drawn where a mask is least certain (PointRend §3.1, Mask2Former §3.3).

Letters: M rows (matched masks), h w pixels of a predicted mask, P points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .mask_predictions import sample_bilinear
from .matcher import FOCAL_ALPHA
from .targets import SegmentTargets


@dataclass
class PointLoss:
    """What is computed for each pair of a predicted mask and a segment.

    Attributes:
        mask_loss: "focal" | "bce", averaged over the points.
        mask_weight, dice_weight: factors of the two losses.
        num_points: points per mask.
        oversample_ratio: so many times as many candidates are drawn to choose the uncertain points from.
        importance_sample_ratio: the share of the points that are chosen so; the others are random.
    """

    mask_loss: str
    mask_weight: float
    dice_weight: float
    num_points: int
    oversample_ratio: float
    importance_sample_ratio: float

    def __call__(self, logits: Tensor, target: SegmentTargets, segments: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted losses of each row.

        Args:
            logits: (M, h, w) float32 or float64.
            target: the segments of one image.
            segments: (M,) int64, the segment of each row.

        Returns:
            (M,) mask losses and (M,) dice losses, the latter 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1).
        """
        with torch.no_grad():
            points = self.uncertain_points(logits)
            membership = target.sample(segments, points)
        return self.losses(sample_bilinear(logits[:, None], points)[:, 0], membership)

    def uncertain_points(self, logits: Tensor) -> Tensor:
        """(M, P, 2) points (x, y) in [0, 1], the uncertain ones (logits near 0) first."""
        num_candidates = int(self.num_points * self.oversample_ratio)
        num_uncertain = int(self.num_points * self.importance_sample_ratio)
        options = {"dtype": logits.dtype, "device": logits.device}
        candidates = torch.rand(len(logits), num_candidates, 2, **options)
        certainty = sample_bilinear(logits[:, None], candidates)[:, 0].abs()
        chosen = certainty.topk(num_uncertain, dim=1, largest=False).indices
        uncertain = candidates.gather(1, chosen[..., None].expand(-1, -1, 2))
        return torch.cat(
            [uncertain, torch.rand(len(logits), self.num_points - num_uncertain, 2, **options)], 1
        )

    def losses(self, logits: Tensor, membership: Tensor) -> tuple[Tensor, Tensor]:
        """(M,) weighted mask and dice losses of logits (M, P) against membership (M, P) in [0, 1]."""
        probability = logits.sigmoid()
        values = F.binary_cross_entropy_with_logits(logits, membership, reduction="none")
        if self.mask_loss == "focal":
            miss = probability * (1 - membership) + (1 - probability) * membership
            balance = FOCAL_ALPHA * membership + (1 - FOCAL_ALPHA) * (1 - membership)
            values = values * balance * miss.square()
        overlap = (probability * membership).sum(1)
        dice = 1 - (2 * overlap + 1) / (probability.sum(1) + membership.sum(1) + 1)
        return self.mask_weight * values.mean(1), self.dice_weight * dice
