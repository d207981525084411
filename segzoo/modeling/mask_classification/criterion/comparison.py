"""Where a loss compares matched masks with their segments: on all pixels, or on uncertain points.

Shape shorthand: M masks, h w pixels of a mask, H W pixels of the target, P pixels or points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bilinear import resize_planes
from .target_masks import SegmentTargets

# Returns (M, count, 2) random points (x, y) in [0, 1) for M masks, given the count.
DrawPoints = Callable[[int], Tensor]


class AllPixels:
    """All pixels at the target's resolution, to which masks are resized (MaskFormer)."""

    def __call__(
        self, masks: Tensor, target: SegmentTargets, segments: Tensor, draw: DrawPoints
    ) -> tuple[Tensor, Tensor]:
        """Return logits and membership at the compared pixels.

        Args:
            masks: (M, h, w) float logits of one image.
            target: the segments of that image.
            segments: (M,) int64, the segment of each mask.
            draw: source of random points.

        Returns:
            (M, P) logits and (M, P) membership in [0, 1], P = H * W.
        """
        membership = target.planes(segments).to(masks.dtype)
        return resize_planes(masks, target.size).flatten(1), membership.flatten(1)


@dataclass(frozen=True)
class UncertainPoints:
    """Points, most of them where a mask is least certain (PointRend §3.1, Mask2Former §3.3).

    Attributes:
        num_points: P, per mask.
        oversample_ratio: number of candidates for the uncertain points, in units of `num_points`.
        importance_sample_ratio: fraction of the points that are chosen by uncertainty; the others are
            random.
    """

    num_points: int
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75

    def __call__(
        self, masks: Tensor, target: SegmentTargets, segments: Tensor, draw: DrawPoints
    ) -> tuple[Tensor, Tensor]:
        """See `AllPixels`."""
        with torch.no_grad():
            points = self.choose(masks, draw(self.num_drawn))
            membership = target.sample(segments, points)
        return _sampled(masks, points), membership

    @property
    def num_uncertain(self) -> int:
        return int(self.num_points * self.importance_sample_ratio)

    @property
    def num_candidates(self) -> int:
        return int(self.num_points * self.oversample_ratio) if self.num_uncertain else 0

    @property
    def num_drawn(self) -> int:
        """Number of random points needed per mask: the candidates and the points used as drawn."""
        return self.num_candidates + self.num_points - self.num_uncertain

    def choose(self, logits: Tensor, drawn: Tensor) -> Tensor:
        """Return (M, P, 2) points (x, y) in [0, 1], the uncertain ones (logits near 0) first.

        Args:
            logits: (M, h, w) float.
            drawn: (M, num_drawn, 2) random points.
        """
        candidates, others = drawn.split([self.num_candidates, self.num_points - self.num_uncertain], 1)
        if self.num_uncertain == 0:
            return others
        # Only their order matters, so the fastest of the equivalent sampling functions will do.
        certainty = _sampled(logits, candidates).abs_()
        chosen = certainty.topk(self.num_uncertain, dim=1, largest=False, sorted=False).indices
        return torch.cat([candidates.gather(1, chosen[..., None].expand(-1, -1, 2)), others], 1)


Comparison = Callable[[Tensor, SegmentTargets, Tensor, DrawPoints], tuple[Tensor, Tensor]]


def build_comparison(cfg) -> AllPixels | UncertainPoints:
    """Build the comparison that MODEL.MASK_FORMER.TRAIN_NUM_POINTS selects."""
    node = cfg.MODEL.MASK_FORMER
    if node.TRAIN_NUM_POINTS == 0:
        return AllPixels()
    return UncertainPoints(node.TRAIN_NUM_POINTS, node.OVERSAMPLE_RATIO, node.IMPORTANCE_SAMPLE_RATIO)


def _sampled(masks: Tensor, points: Tensor) -> Tensor:
    """Sample masks (M, h, w) at points (M, P, 2) -> (M, P)."""
    return F.grid_sample(masks[:, None], 2 * points[:, None] - 1, align_corners=False)[:, 0, 0]
