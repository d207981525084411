"""Matching written plainly, by layer and image: with `SetCriterion` the peer of `criterion.py`.

Every mask of every layer is formed, and every segment is a plane of floats. The tests compare segzoo's
matcher with it.

Shape shorthand: Q queries, K classes, S segments of an image, h w pixels of a mask, H W pixels of the target,
P pixels or points.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from segzoo.modeling.mask_classification.criterion.decoder_outputs import mask_logits

ALPHA, GAMMA = 0.25, 2


def planes(segment_map: Tensor, num_segments: int) -> Tensor:
    """Return (S, H, W) float planes of a segment map."""
    return torch.stack([segment_map == segment for segment in range(num_segments)]).float()


def match(logits: Tensor, x: Tensor, t: Tensor, classes: Tensor, weights: Sequence[float], mask_loss: str):
    """Match one image: logits (Q, K+1), mask logits (Q, P), segments (S, P), classes (S,)."""
    class_cost = -logits.softmax(-1)[:, classes]
    p = x.sigmoid()
    inside = F.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none")
    outside = F.binary_cross_entropy_with_logits(x, torch.zeros_like(x), reduction="none")
    if mask_loss == "focal":
        inside = ALPHA * (1 - p) ** GAMMA * inside
        outside = (1 - ALPHA) * p**GAMMA * outside
    mask_cost = (inside @ t.t() + outside @ (1 - t).t()) / x.shape[1]
    dice_cost = 1 - (2 * p @ t.t() + 1) / (p.sum(1)[:, None] + t.sum(1)[None] + 1)
    cost = weights[0] * class_cost + weights[1] * mask_cost + weights[2] * dice_cost
    return tuple(index.to(x.device) for index in map(torch.as_tensor, linear_sum_assignment(cost.cpu())))


class StraightforwardMatcher(nn.Module):
    """A matcher called as `HungarianMatcher`, with class, mask and dice costs.

    Args:
        weights: weights of the three costs.
        mask_loss: "focal" | "bce"
        num_points: number of random points per mask; 0: all pixels at the predictions' resolution.
    """

    def __init__(self, weights: Sequence[float], mask_loss: str, num_points: int = 0):
        super().__init__()
        self.weights, self.mask_loss, self.num_points = weights, mask_loss, num_points

    @torch.no_grad()
    def forward(self, outputs, targets, points) -> list:
        matches = []
        drawn = None
        if self.num_points:
            like = outputs.masks.factors[0].detach().to(outputs.dtype)
            drawn = points.for_matching(len(targets), len(outputs.layers), self.num_points, like)
        for index, layer in enumerate(outputs.layers):
            masks = mask_logits(layer).to(outputs.dtype)
            matches.append([])
            for image, target in enumerate(targets):
                segments = torch.arange(len(target), device=masks.device)
                segment_planes = target.planes(segments).to(masks.dtype)
                where = None if drawn is None else drawn[image, index]
                x, t = self._compared(masks[image], segment_planes, where)
                logits = layer["pred_logits"][image].to(masks.dtype)
                matches[-1].append(match(logits, x, t, target.classes, self.weights, self.mask_loss))
        return matches

    def _compared(self, masks: Tensor, segments: Tensor, points: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return (Q, h, w) masks and (S, H, W) segments, resized or sampled, as (Q, P) and (S, P)."""
        if points is not None:
            return sampled(masks, points), sampled(segments, points)
        small = F.interpolate(segments[:, None], size=masks.shape[-2:], mode="nearest")
        return masks.flatten(1), small[:, 0].flatten(1)


def sampled(maps: Tensor, points: Tensor) -> Tensor:
    """Sample (M, h, w) maps at the same points (P, 2) each; return (M, P)."""
    if len(maps) == 0:  # which grid_sample refuses
        return maps.new_zeros((0, len(points)))
    grid = (2 * points - 1).expand(len(maps), 1, -1, -1)
    return F.grid_sample(maps[:, None], grid, align_corners=False)[:, 0, 0]
