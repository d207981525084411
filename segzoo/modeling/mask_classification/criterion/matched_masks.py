"""Losses of matched masks, whose gradient is computed with them, some masks at a time.

Autograd would keep every matched mask, and several planes of its size, until the backward pass. Here a chunk
of masks is formed, its losses and its gradient are computed, the gradient goes into the sums for embeddings
and features, and the chunk is dropped before the next.

Letters: L layers, N images, M matched masks of an image (layer by layer), m rows of a chunk, h w pixels of a
mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .mask_predictions import MaskPredictions, Rows
from .matcher import Matches
from .target_masks import SegmentTargets


class ImageLoss(Protocol):
    """The losses of masks of one image; the same arguments give the same result."""

    def __call__(
        self,
        logits: Tensor,
        segments: Tensor,
        start: int,
        mask_scale: Tensor,
        dice_scale: Tensor,
        needs_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        Args:
            logits: (m, h, w) float32 or float64.
            segments: (m,) int64, the segment of each row.
            start: the number of the first row among the image's matched masks.
            mask_scale, dice_scale: (m,) factors of the two losses in the gradient.
            needs_gradient: False: the third result is None.

        Returns:
            (m,) mask losses, (m,) dice losses, and (m, h, w) the gradient of their scaled sum.
        """


class RowLoss(Protocol):
    """What mask losses are made of; `chunk_elements` pixels are best treated at a time."""

    chunk_elements: int

    def of_image(self, image: int, target: SegmentTargets) -> ImageLoss: ...


@dataclass
class MatchedMasks:
    """What is compared: the masks of all layers and images, and the segments that they are matched with."""

    predictions: MaskPredictions
    targets: Sequence[SegmentTargets]
    matches: list[Matches]

    def losses(self, loss: RowLoss, divisor: Tensor) -> tuple[Tensor, Tensor]:
        """(L,) mask and (L,) dice losses, sums over all matches divided by a scalar; differentiable once."""
        needs_gradient = torch.is_grad_enabled()
        return _MatchedLosses.apply(self, loss, divisor, needs_gradient, *self.predictions.factors)

    def chunks(self, image: int, rows_per_chunk: int):
        """Yields (slice of the image's M matches, their rows, their segments (m,))."""
        queries, segments = zip(*(layer[image] for layer in self.matches), strict=True)
        segments = torch.cat(segments)
        per_layer = len(queries[0])  # the same in all layers
        for start in range(0, len(segments), rows_per_chunk):
            stop = min(start + rows_per_chunk, len(segments))
            rows: Rows = []
            for layer in range(start // per_layer, (stop - 1) // per_layer + 1):
                first = layer * per_layer
                rows.append((layer, queries[layer][max(start - first, 0) : stop - first]))
            yield slice(start, stop), rows, segments[start:stop]


def _evaluate(
    matched: MatchedMasks, loss: RowLoss, mask_scale: Tensor, dice_scale: Tensor, needed: Sequence[bool]
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """(L,) mask losses, (L,) dice losses, and gradients of the sum of both after scaling by (L,) each."""
    predictions = matched.predictions
    # Products of matrices want more masks at a time than what comes after.
    rows_per_chunk = max(8 * loss.chunk_elements // (predictions.size[0] * predictions.size[1]), 1)
    gradients = predictions.new_gradients(needed)
    totals = mask_scale.new_zeros((2, predictions.num_layers))
    for image, target in enumerate(matched.targets):
        image_loss = loss.of_image(image, target)
        per_layer = len(matched.matches[0][image][0])
        values = totals.new_empty((2, predictions.num_layers * per_layer))
        scales = torch.stack((mask_scale, dice_scale)).repeat_interleave(per_layer, 1)
        for place, rows, segments in matched.chunks(image, rows_per_chunk):
            logits = predictions.rows(image, rows)
            values[0, place], values[1, place], gradient = image_loss(
                logits, segments, place.start, *scales[:, place], any(needed)
            )
            if gradient is not None:
                predictions.add_gradient(gradients, image, rows, gradient)
        totals += values.view(2, predictions.num_layers, per_layer).sum(2)
    return totals[0], totals[1], gradients


class _MatchedLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matched: MatchedMasks, loss: RowLoss, divisor: Tensor, needs_gradient: bool, *factors):
        ctx.matched, ctx.loss = matched, loss
        ctx.needed = [needs_gradient and need for need in ctx.needs_input_grad[4:]]
        ctx.scale = (1 / divisor.to(matched.predictions.dtype)).expand(matched.predictions.num_layers)
        mask_losses, dice_losses, gradients = _evaluate(matched, loss, ctx.scale, ctx.scale, ctx.needed)
        ctx.save_for_backward(*gradients)
        return mask_losses * ctx.scale, dice_losses * ctx.scale

    @staticmethod
    @once_differentiable
    def backward(ctx, mask_scale, dice_scale):
        gradients = ctx.saved_tensors
        scales = set(torch.cat((mask_scale, dice_scale)).tolist())
        if len(scales) > 1:
            # The stored gradient is of the plain sum. Someone weights the layers or losses: compute it anew.
            scales = mask_scale * ctx.scale, dice_scale * ctx.scale
            gradients = _evaluate(ctx.matched, ctx.loss, *scales, ctx.needed)[2]
        elif scales != {1.0}:
            scale = scales.pop()
            gradients = [None if gradient is None else gradient * scale for gradient in gradients]
        return None, None, None, None, *gradients
