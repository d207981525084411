"""Mask losses on uncertain points, forward and backward in one pass (see `UncertainPoints`).

Shape shorthand: m masks of a chunk, h w pixels of a predicted mask, P points.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .comparison import UncertainPoints
from .matched_masks import ChunkLosses, MaskChunk
from .pixel_losses import ComparedPixels, dice_losses, mask_losses
from .point_sampling import RandomPoints, corners, sample, sample_transposed
from .target_batch import TargetBatch


@dataclass
class PointLoss:
    """Losses of masks on points.

    Attributes:
        mask_loss: "focal" | "bce", averaged over the points.
        comparison: how points are chosen.
        chunk_elements: maximum number of candidate coordinates drawn at a time (at least one mask's).
        points: source of random points.
    """

    mask_loss: str
    comparison: UncertainPoints
    chunk_elements: int = 2**19
    points: RandomPoints = field(default_factory=RandomPoints)

    def __call__(self, chunk: MaskChunk, targets: TargetBatch, scales: Tensor | None) -> ChunkLosses:
        """See `MaskLoss`."""
        logits, drawn = chunk.logits, self.comparison.num_drawn
        step = max(self.chunk_elements // (2 * drawn), 1)
        values = logits.new_empty((2, len(logits)))
        gradient = None if scales is None else torch.zeros_like(logits)
        for first in range(0, len(logits), step):
            part = slice(first, min(first + step, len(logits)))
            candidates = self.points.for_losses(
                chunk.start + part.start, chunk.start + part.stop, drawn, logits
            )
            points = self.comparison.choose(logits[part], candidates)
            membership = targets.sample(chunk.images[part], chunk.segments[part], points)
            places = corners(points, tuple(logits.shape[-2:]))
            sampled = sample(logits[part].flatten(1), places)
            if gradient is None:
                values[:, part] = self._losses(sampled, membership)
                continue
            with torch.enable_grad():
                losses = self._losses(sampled.requires_grad_(), membership)
            values[:, part] = losses.detach()
            (upstream,) = torch.autograd.grad(losses, sampled, scales[:, part])
            sample_transposed(upstream, places, gradient[part].flatten(1))
        return ChunkLosses(values, gradient)

    def _losses(self, logits: Tensor, membership: Tensor) -> Tensor:
        """Return the mask and dice losses, (2, m), of logits (m, P) against membership (m, P)."""
        masks = ComparedPixels(logits, membership)
        return torch.stack((mask_losses(masks, self.mask_loss), dice_losses(masks)))
