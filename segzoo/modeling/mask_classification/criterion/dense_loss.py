"""Mask losses over all pixels of the target, with memory for only a few upsampled masks.

The straightforward formulation upsamples every matched mask to the target's size and keeps half a dozen
planes of that size per mask for the backward pass. Here a few masks are upsampled, their losses and their
gradient at the masks' own resolution are computed, and the planes are freed before the next masks.

Shape shorthand: m masks of a chunk, h w pixels of a predicted mask, H W pixels of the target.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bilinear import resize_planes, resize_transposed
from .matched_masks import ChunkLosses, MaskChunk
from .pixel_losses import FOCAL_ALPHA
from .target_batch import TargetBatch


@dataclass
class DenseLoss:
    """Losses of masks that are resized bilinearly (align_corners=False) to the target's size.

    Attributes:
        mask_loss: "focal" | "bce", averaged over the pixels of the target.
        chunk_elements: maximum number of pixels of upsampled masks formed at a time (at least one mask is).
    """

    mask_loss: str
    chunk_elements: int

    def __call__(self, chunk: MaskChunk, targets: TargetBatch, scales: Tensor | None) -> ChunkLosses:
        """See `MaskLoss`."""
        logits = chunk.logits
        step = max(self.chunk_elements // (targets.size[0] * targets.size[1]), 1)
        values = logits.new_empty((2, len(logits)))
        gradient = None if scales is None else torch.empty_like(logits)
        for first in range(0, len(logits), step):
            part = slice(first, min(first + step, len(logits)))
            inside = targets.members(chunk.images[part], chunk.segments[part], logits.dtype)
            upsampled = resize_planes(logits[part], targets.size).flatten(1)
            values[:, part], derivative = self._losses(
                upsampled, inside, None if scales is None else scales[:, part]
            )
            if derivative is not None:
                planes = derivative.unflatten(1, targets.size)
                gradient[part] = resize_transposed(planes, tuple(logits.shape[-2:]))
        return ChunkLosses(values, gradient)

    def _losses(self, logits: Tensor, inside: Tensor, scales: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return losses (2, m) and, with `scales` (2, m), the derivative of their scaled sum, (m, H * W).

        With y = -x for the logit x of a pixel of the segment, y = x outside, and p = sigmoid(y), the
        probability of the wrong answer, all pixels have one formula: the loss softplus(y), for the focal loss
        times p^2 and a weight.
        """
        pixels = logits.shape[1]
        signed = torch.addcmul(logits, inside, logits, value=-2)
        p, loss = signed.sigmoid(), F.softplus(signed)
        del signed
        mask_loss, rest = self._mask_loss(p, loss, inside)
        areas, wrong_inside = inside.sum(1), _dots(inside, p)
        numerator = 2 * (areas - wrong_inside) + 1
        denominator = p.sum(1) - 2 * wrong_inside + 2 * areas + 1
        values = torch.stack((mask_loss / pixels, 1 - numerator / denominator))
        if scales is None:
            return values, None

        mask_scale, dice_scale = (scales[0] / pixels)[:, None], scales[1][:, None]
        # The derivative of the dice loss by a probability is numerator / denominator^2, and 2 / denominator
        # less inside.
        outside = dice_scale * (numerator / denominator.square())[:, None]
        # (`torch.addcmul` of a plane and two columns would be three times as slow.)
        derivative = (inside * (dice_scale * (-2 / denominator)[:, None])).add_(outside)
        derivative.addcmul_(derivative, p, value=-1)
        return values, self._add_slope(derivative, p, rest, inside, mask_scale).mul_(p)

    def _mask_loss(self, p: Tensor, loss: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the mask loss over pixels, (m,), and (1 - p) l for the focal loss.

        `loss`, l, is overwritten.
        """
        if self.mask_loss == "bce":
            return loss.sum(1), loss
        weighted = p * loss
        rest = loss.sub_(weighted)
        weighted.mul_(p)
        outside_weight = 1 - FOCAL_ALPHA
        total = outside_weight * weighted.sum(1) - (outside_weight - FOCAL_ALPHA) * _dots(inside, weighted)
        return total, rest

    def _add_slope(self, to: Tensor, p: Tensor, rest: Tensor, inside: Tensor, scale: Tensor) -> Tensor:
        """Add the derivative of the scaled mask loss by the logit x, divided by p, to (m, H * W) values.

        It is 1 for binary cross-entropy, and weight * p * (2 (1 - p) l + p) for the focal loss, with the
        other sign inside. `rest` is overwritten.
        """
        if self.mask_loss == "bce":
            return to.add_((inside * (-2 * scale)).add_(scale))
        weight = (inside * -scale).add_((1 - FOCAL_ALPHA) * scale)
        return to.addcmul_(torch.add(p, rest, alpha=2, out=rest).mul_(p), weight)


def _dots(x: Tensor, y: Tensor) -> Tensor:
    """Return the sums of products of rows, (m, P) each -> (m,)."""
    return torch.bmm(x[:, None], y[:, :, None]).flatten()
