"""Mask losses on points that are drawn where a mask is least certain (PointRend §3.1, Mask2Former §3.3).

Letters: m rows (matched masks), h w pixels of a predicted mask, P points.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .matched_masks import ImageLoss
from .matcher import FOCAL_ALPHA
from .point_sampling import RandomPoints, corners, sample, sample_transposed
from .target_masks import SegmentTargets


@dataclass
class PointLoss:
    """What is computed for each pair of a predicted mask and a segment.

    Attributes:
        mask_loss: "focal" | "bce", averaged over the points.
        mask_weight, dice_weight: factors of the two losses.
        num_points: points per mask.
        oversample_ratio: so many times as many candidates are drawn to choose the uncertain points from.
        importance_sample_ratio: the share of the points that are chosen so; the others are random.
        chunk_elements: so many coordinates of candidates at most are drawn at a time (at least one mask's).
        points: where random points come from.
    """

    mask_loss: str
    mask_weight: float
    dice_weight: float
    num_points: int
    oversample_ratio: float
    importance_sample_ratio: float
    chunk_elements: int = 2**19
    points: RandomPoints = field(default_factory=RandomPoints)

    def of_image(self, image: int, target: SegmentTargets) -> ImageLoss:
        """The losses on points; the dice loss is 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1)."""
        return partial(self._losses, image, target)

    def _losses(
        self,
        image: int,
        target: SegmentTargets,
        logits: Tensor,
        segments: Tensor,
        start: int,
        mask_scale: Tensor,
        dice_scale: Tensor,
        needs_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `ImageLoss`."""
        step = max(self.chunk_elements // (2 * self._num_drawn()), 1)
        mask_losses, dice_losses = torch.empty_like(mask_scale), torch.empty_like(mask_scale)
        gradient = torch.zeros_like(logits) if needs_gradient else None
        for first in range(0, len(logits), step):
            rows = slice(first, min(first + step, len(logits)))
            points = self.uncertain_points(logits[rows], image, start + first)
            membership = target.sample(segments[rows], points)
            places = corners(points, tuple(logits.shape[-2:]))
            values = sample(logits[rows].flatten(1), places)
            with torch.set_grad_enabled(needs_gradient):
                values.requires_grad_(needs_gradient)
                mask_losses[rows], dice_losses[rows] = losses = self.losses(values, membership)
                if needs_gradient:
                    (upstream,) = torch.autograd.grad(losses, values, (mask_scale[rows], dice_scale[rows]))
                    sample_transposed(upstream, places, gradient[rows].flatten(1))
        return mask_losses, dice_losses, gradient

    def uncertain_points(self, logits: Tensor, image: int = 0, start: int = 0) -> Tensor:
        """(m, P, 2) points (x, y) in [0, 1], the uncertain ones (logits near 0) first.

        Args:
            logits: (m, h, w) float.
            image, start: the image, and the number of the first row among its matched masks.
        """
        drawn = self.points.for_losses(image, start, start + len(logits), self._num_drawn(), logits)
        candidates, others = drawn.split([self._num_candidates(), self.num_points - self._num_uncertain()], 1)
        if self._num_uncertain() == 0:
            return others
        # All that is asked for is their order, so the fastest of the equivalent ways to sample will do.
        grid = 2 * candidates[:, None] - 1
        certainty = F.grid_sample(logits[:, None], grid, align_corners=False)[:, 0, 0].abs_()
        chosen = certainty.topk(self._num_uncertain(), dim=1, largest=False, sorted=False).indices
        return torch.cat([candidates.gather(1, chosen[..., None].expand(-1, -1, 2)), others], 1)

    def losses(self, logits: Tensor, membership: Tensor) -> tuple[Tensor, Tensor]:
        """(m,) weighted mask and dice losses of logits (m, P) against membership (m, P) in [0, 1]."""
        probability = logits.sigmoid()
        values = F.binary_cross_entropy_with_logits(logits, membership, reduction="none")
        if self.mask_loss == "focal":
            miss = probability * (1 - membership) + (1 - probability) * membership
            balance = FOCAL_ALPHA * membership + (1 - FOCAL_ALPHA) * (1 - membership)
            values = values * balance * miss.square()
        overlap = (probability * membership).sum(1)
        dice = 1 - (2 * overlap + 1) / (probability.sum(1) + membership.sum(1) + 1)
        return self.mask_weight * values.mean(1), self.dice_weight * dice

    def _num_uncertain(self) -> int:
        return int(self.num_points * self.importance_sample_ratio)

    def _num_candidates(self) -> int:
        return int(self.num_points * self.oversample_ratio) if self._num_uncertain() else 0

    def _num_drawn(self) -> int:
        return self._num_candidates() + self.num_points - self._num_uncertain()
