"""Mask losses over all pixels of the target, in the memory of a few planes.

The straightforward formulation stretches every matched mask to the target's size and keeps half a dozen
planes of that size per mask for the backward pass. Here a few masks are stretched, their losses and their
gradient at the masks' own resolution are computed, and the planes are dropped before the next masks. Pixels
outside of a segment, the bulk, are treated with no reference to the target; the segment's own pixels, few,
are gathered and treated apart.

Letters: m rows (matched masks), h w pixels of a predicted mask, H W pixels of the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from segzoo.layers.runtime import transferred

from ..bilinear import shrink_transposed, stretch
from .matched_masks import ImageLoss
from .matcher import FOCAL_ALPHA
from .target_masks import SegmentTargets


@dataclass
class DenseLoss:
    """What is computed for each pair of a predicted mask and a segment.

    Attributes:
        mask_loss: "focal" | "bce", averaged over the pixels of the target.
        mask_weight, dice_weight: factors of the two losses.
        chunk_elements: so many pixels of stretched masks at most are formed at a time (at least one mask is).
    """

    mask_loss: str
    mask_weight: float
    dice_weight: float
    chunk_elements: int

    def of_image(self, image: int, target: SegmentTargets) -> ImageLoss:
        """The losses of masks stretched bilinearly (align_corners=False) to the target's size.

        The dice loss is 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1).
        """
        indices, areas = target.pixel_lists()
        return partial(self._losses, target.size, indices.split(areas))

    def _losses(
        self,
        size: tuple[int, int],
        own_pixels: Sequence[Tensor],
        logits: Tensor,
        segments: Tensor,
        start: int,
        mask_scale: Tensor,
        dice_scale: Tensor,
        needs_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `ImageLoss`; `own_pixels` are those of each segment."""
        step = max(self.chunk_elements // (size[0] * size[1]), 1)
        mask_losses, dice_losses = torch.empty_like(mask_scale), torch.empty_like(mask_scale)
        gradient = torch.empty_like(logits) if needs_gradient else None
        segment_of_row = segments.tolist()
        for first in range(0, len(logits), step):
            rows = slice(first, min(first + step, len(logits)))
            chunk = _Chunk(
                logits[rows], [own_pixels[segment] for segment in segment_of_row[rows]], size, self
            )
            mask_losses[rows] = self.mask_weight * chunk.mask_loss
            dice_losses[rows] = self.dice_weight * chunk.dice_loss
            if needs_gradient:
                gradient[rows] = chunk.gradient(
                    self.mask_weight * mask_scale[rows],
                    self.dice_weight * dice_scale[rows],
                    logits.shape[-2:],
                )
        return mask_losses, dice_losses, gradient


class _Chunk:
    """The losses of a few rows, and what their gradient needs.

    For a pixel with logit x outside of the segment, p = sigmoid(x) and l = softplus(x): the focal loss is
    (1-alpha) p^2 l, its derivative (1-alpha) p^2 (2 (1-p) l + p). Inside the same holds for -x, with alpha.
    Setting p (and l) to 0 inside removes those pixels from all sums and derivatives of the outside, without
    cancellation.
    """

    def __init__(self, logits: Tensor, own_pixels: list[Tensor], size: tuple[int, int], loss: DenseLoss):
        self.loss = loss
        self.pixels = size[0] * size[1]
        self.size = size
        stretched = stretch(logits, size).flatten(1).contiguous()
        self.areas = [len(index) for index in own_pixels]
        # Of the segments' own pixels the rows, and the positions in the flattened chunk.
        self.rows = torch.cat([torch.full_like(index, row) for row, index in enumerate(own_pixels)])
        self.inside = torch.cat(own_pixels) + self.rows * self.pixels

        own_logits = stretched.view(-1)[self.inside]
        self.own_miss = torch.sigmoid(-own_logits)  # 1 - p of the segment's own pixels
        self.own_loss = F.softplus(-own_logits)  # their cross-entropy
        self.probability = stretched.sigmoid()
        self.cross_entropy = F.softplus(stretched)
        self.probability.view(-1)[self.inside] = 0
        self.cross_entropy.view(-1)[self.inside] = 0

        own_sums, own_overlap = map(self._own_row_sums, (self._own_mask_loss(), 1 - self.own_miss))
        self.numerator = 2 * own_overlap + 1
        areas = transferred(torch.tensor(self.areas, dtype=logits.dtype), logits.device)
        self.denominator = self.probability.sum(1) + own_overlap + areas + 1
        self.mask_loss = (self._outside_mask_loss() + own_sums) / self.pixels
        self.dice_loss = 1 - self.numerator / self.denominator

    def _own_mask_loss(self) -> Tensor:
        if self.loss.mask_loss == "bce":
            return self.own_loss
        return FOCAL_ALPHA * self.own_miss.square() * self.own_loss

    def _outside_mask_loss(self) -> Tensor:
        """(m,) sums; for the focal loss leaves `cross_entropy` times (1 - p), which the gradient needs."""
        if self.loss.mask_loss == "bce":
            return self.cross_entropy.sum(1)
        weighted = self.probability * self.cross_entropy
        self.cross_entropy.sub_(weighted)
        return (1 - FOCAL_ALPHA) * weighted.mul_(self.probability).sum(1)

    def _own_row_sums(self, values: Tensor) -> Tensor:
        """(m,) sums of values of the segments' own pixels."""
        # Not by `segment_reduce`, which has a single thread for a segment on a GPU, and nothing on Apple's.
        return torch.stack([row.sum() for row in values.split(self.areas)])

    def gradient(self, mask_scale: Tensor, dice_scale: Tensor, mask_size: tuple[int, int]) -> Tensor:
        """(m, h, w) derivative of mask_scale * mask loss + dice_scale * dice loss; uses up the planes."""
        mask_scale = mask_scale / self.pixels
        # d dice / dp = numerator / denominator^2 everywhere, and -2 / denominator more inside.
        dice_outside = dice_scale * self.numerator / self.denominator.square()
        dice_inside = dice_outside - 2 * dice_scale / self.denominator
        derivative = self._outside_derivative(mask_scale[:, None], dice_outside[:, None])
        inside = self._inside_derivative(mask_scale[self.rows], dice_inside[self.rows])
        derivative.view(-1)[self.inside] = inside
        return shrink_transposed(derivative.unflatten(1, self.size), mask_size)

    def _outside_derivative(self, mask_scale: Tensor, dice_scale: Tensor) -> Tensor:
        p = self.probability
        dice_part = (1 - p).mul_(dice_scale)
        if self.loss.mask_loss == "bce":
            return dice_part.add_(mask_scale).mul_(p)
        # p * [ k p (2 (1-p) l + p) + d (1-p) ], with (1-p) l left behind by _outside_mask_loss.
        mask_part = torch.add(p, self.cross_entropy, alpha=2, out=self.cross_entropy).mul_(p)
        return mask_part.mul_((1 - FOCAL_ALPHA) * mask_scale).add_(dice_part).mul_(p)

    def _inside_derivative(self, mask_scale: Tensor, dice_scale: Tensor) -> Tensor:
        miss = self.own_miss
        dice_part = dice_scale * (1 - miss)
        if self.loss.mask_loss == "bce":
            return miss * (dice_part - mask_scale)
        mask_part = FOCAL_ALPHA * miss * (2 * (1 - miss) * self.own_loss + miss)
        return miss * (dice_part - mask_scale * mask_part)
