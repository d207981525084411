"""Mask losses over all pixels of the target, with memory for only a few upsampled masks.

The straightforward formulation upsamples every matched mask to the target's size and keeps half a dozen
planes of that size per mask for the backward pass. Here a few masks are upsampled, their losses and their
gradient at the masks' own resolution are computed, and the planes are freed before the next masks. The pixels
outside of a segment, which are the majority, are processed without reading the target; the few pixels inside
are gathered and processed separately.

Shape shorthand: m masks of a chunk, h w pixels of a predicted mask, H W pixels of the target, A pixels of all
segments that a chunk is matched with, in one list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segzoo.layers.runtime import transferred

from ..bilinear import resize_planes, resize_transposed
from .matched_masks import ChunkLosses, ImageLoss, MaskChunk
from .pixel_losses import FOCAL_ALPHA
from .target_masks import SegmentTargets


@dataclass
class DenseLoss:
    """Losses of masks that are resized bilinearly (align_corners=False) to the target's size.

    Attributes:
        mask_loss: "focal" | "bce", averaged over the pixels of the target.
        chunk_elements: maximum number of pixels of upsampled masks formed at a time (at least one mask is).
    """

    mask_loss: str
    chunk_elements: int

    def on_image(self, image: int, target: SegmentTargets) -> ImageLoss:
        """See `MaskLoss`."""
        indices, areas = target.pixel_lists()
        return _DenseImageLoss(
            _FORMULAS[self.mask_loss], self.chunk_elements, target.size, indices.split(areas)
        )


@dataclass
class _DenseImageLoss:
    """Losses of the masks of one image.

    Attributes:
        formula: the mask loss.
        chunk_elements: see `DenseLoss`.
        size: (H, W)
        own_pixels: the pixels of each segment, (area,) int64 into the flattened target.
    """

    formula: type[_Focal] | type[_CrossEntropy]
    chunk_elements: int
    size: tuple[int, int]
    own_pixels: Sequence[Tensor]

    def __call__(self, chunk: MaskChunk, scales: Tensor | None) -> ChunkLosses:
        """See `ImageLoss`."""
        logits = chunk.logits
        step = max(self.chunk_elements // (self.size[0] * self.size[1]), 1)
        values = logits.new_empty((2, len(logits)))
        gradient = None if scales is None else torch.empty_like(logits)
        segments = chunk.segments.tolist()
        for first in range(0, len(logits), step):
            part = slice(first, min(first + step, len(logits)))
            own = _OwnPixels([self.own_pixels[segment] for segment in segments[part]], self.size, logits)
            values[:, part], derivative = self._losses(
                logits[part], own, None if scales is None else scales[:, part]
            )
            if derivative is not None:
                gradient[part] = resize_transposed(
                    derivative.unflatten(1, self.size), tuple(logits.shape[-2:])
                )
        return ChunkLosses(values, gradient)

    def _losses(self, logits: Tensor, own: _OwnPixels, scales: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return losses (2, m) and, with `scales` (2, m), the derivative of their scaled sum, (m, H * W).

        With x the logit of a pixel, p = sigmoid(x) and l = softplus(x) determine its loss outside of the
        segment; its loss inside is that of -x. Setting p and l to 0 inside removes those pixels from all sums
        and derivatives of the outside, without cancellation.
        """
        upsampled = resize_planes(logits, self.size).flatten(1).contiguous()
        own_logits = upsampled.view(-1)[own.index]
        miss, own_loss = torch.sigmoid(-own_logits), F.softplus(-own_logits)  # 1 - p, and l of -x
        p, outside_loss = upsampled.sigmoid(), F.softplus(upsampled)
        del upsampled
        p.view(-1)[own.index] = 0
        outside_loss.view(-1)[own.index] = 0

        pixels = self.size[0] * self.size[1]
        outside, rest = self.formula.outside(p, outside_loss)
        mask_loss = (outside + own.sums(self.formula.inside(miss, own_loss))) / pixels
        overlap = own.sums(1 - miss)
        numerator, denominator = 2 * overlap + 1, p.sum(1) + overlap + own.areas + 1
        values = torch.stack((mask_loss, 1 - numerator / denominator))
        if scales is None:
            return values, None

        mask_scale, dice_scale = scales[0] / pixels, scales[1]
        # d dice / dp = numerator / denominator^2 everywhere, and -2 / denominator more inside.
        dice_outside = dice_scale * numerator / denominator.square()
        dice_inside = dice_outside - 2 * dice_scale / denominator
        derivative = (1 - p).mul_(dice_outside[:, None])
        derivative.add_(self.formula.outside_slope(p, rest, mask_scale[:, None])).mul_(p)
        mask_slope = mask_scale[own.mask] * self.formula.inside_slope(miss, own_loss)
        derivative.view(-1)[own.index] = miss * (dice_inside[own.mask] * (1 - miss) - mask_slope)
        return values, derivative


class _OwnPixels:
    """Pixels of the segments that a chunk of masks is matched with.

    Args:
        pixels: m int64 tensors, indices into the flattened target.
        size: (H, W)
        like: a tensor with the device and dtype of the masks.

    Attributes:
        mask: (A,) int64, index of the mask, in [0, m), that a pixel belongs to.
        index: (A,) int64 into the flattened chunk (m, H, W).
        areas: (m,) float
    """

    def __init__(self, pixels: list[Tensor], size: tuple[int, int], like: Tensor):
        self._counts = [len(index) for index in pixels]
        self.mask = torch.cat([torch.full_like(index, mask) for mask, index in enumerate(pixels)])
        self.index = torch.cat(pixels) + self.mask * (size[0] * size[1])
        self.areas = transferred(torch.tensor(self._counts, dtype=like.dtype), like.device)

    def sums(self, values: Tensor) -> Tensor:
        """Sum (A,) pixel values for each mask, (m,)."""
        # Not `segment_reduce`: on CUDA it uses one thread per segment, and MPS does not support it.
        return torch.stack([own.sum() for own in values.split(self._counts)])


class _CrossEntropy:
    """Binary cross-entropy: l outside, with derivative p."""

    @staticmethod
    def outside(p: Tensor, loss: Tensor) -> tuple[Tensor, Tensor | None]:
        return loss.sum(1), None

    @staticmethod
    def outside_slope(p: Tensor, rest: Tensor | None, scale: Tensor) -> Tensor:
        return scale

    @staticmethod
    def inside(miss: Tensor, loss: Tensor) -> Tensor:
        return loss

    @staticmethod
    def inside_slope(miss: Tensor, loss: Tensor) -> Tensor | float:
        return 1.0


class _Focal:
    """Focal loss: (1-alpha) p^2 l outside, with derivative (1-alpha) p^2 (2 (1-p) l + p); inside with alpha.

    Each method overwrites planes that the caller no longer needs.
    """

    @staticmethod
    def outside(p: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of each mask, (m,), and (1 - p) l, which overwrites `loss`."""
        weighted = p * loss
        rest = loss.sub_(weighted)
        return (1 - FOCAL_ALPHA) * weighted.mul_(p).sum(1), rest

    @staticmethod
    def outside_slope(p: Tensor, rest: Tensor, scale: Tensor) -> Tensor:
        """Return the scaled derivative divided by p, which overwrites `rest`."""
        return torch.add(p, rest, alpha=2, out=rest).mul_(p).mul_((1 - FOCAL_ALPHA) * scale)

    @staticmethod
    def inside(miss: Tensor, loss: Tensor) -> Tensor:
        return FOCAL_ALPHA * miss.square() * loss

    @staticmethod
    def inside_slope(miss: Tensor, loss: Tensor) -> Tensor:
        """Return the derivative divided by -miss."""
        return FOCAL_ALPHA * miss * (2 * (1 - miss) * loss + miss)


_FORMULAS = {"focal": _Focal, "bce": _CrossEntropy}
