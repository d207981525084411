"""Losses of matched masks, with the gradient computed in the forward pass, a few masks at a time.

Autograd would keep every matched mask, and several planes of its size, until the backward pass. Here a chunk
of masks is formed, its losses and gradient are computed, the gradient is added to those of the embeddings and
features, and the chunk is freed before the next.

Shape shorthand: L layers, N images, M matched masks of an image (layer by layer), m masks of a chunk, h w
pixels of a mask. Where a dimension is 2, the mask loss comes first and the dice loss second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .mask_predictions import LayerQueries, MaskPredictions
from .matcher import Matches
from .target_masks import SegmentTargets


class MaskChunk(NamedTuple):
    """Some matched masks of one image.

    Attributes:
        logits: (m, h, w) float32 or float64.
        segments: (m,) int64, the segment of each mask.
        start: index of the first mask among the image's M.
    """

    logits: Tensor
    segments: Tensor
    start: int


class ChunkLosses(NamedTuple):
    """The losses of a chunk.

    Attributes:
        values: (2, m)
        gradient: (m, h, w) gradient of the scaled sum of all values; None if it was not requested.
    """

    values: Tensor
    gradient: Tensor | None


class ImageLoss(Protocol):
    """Losses of the masks of one image; the same arguments give the same result."""

    def __call__(self, chunk: MaskChunk, scales: Tensor | None) -> ChunkLosses:
        """Compute losses, and with `scales` (2, m), factors of the losses, the gradient of their sum."""


class MaskLoss(Protocol):
    """How masks are compared; processes best about `chunk_elements` pixels at a time."""

    chunk_elements: int

    def on_image(self, image: int, target: SegmentTargets) -> ImageLoss: ...


@dataclass
class MatchedMasks:
    """The masks of all layers and images, and the segments that they are matched with."""

    predictions: MaskPredictions
    targets: Sequence[SegmentTargets]
    matches: list[Matches]

    def losses(self, loss: MaskLoss, weights: Sequence[float], divisor: Tensor) -> Tensor:
        """Return the losses of each layer, (2, L); differentiable once.

        Args:
            loss: how masks are compared.
            weights: factors of the mask and the dice loss.
            divisor: scalar, divides the sums over all matches of a layer.
        """
        needs_gradient = torch.is_grad_enabled()
        return _MatchedLosses.apply(self, loss, weights, divisor, needs_gradient, *self.predictions.factors)

    def chunks(self, image: int, size: int) -> Iterator[tuple[slice, LayerQueries, Tensor]]:
        """Yield chunks of the image's M matches: their slice of M, their queries, their segments (m,)."""
        queries, segments = zip(*(layer[image] for layer in self.matches), strict=True)
        segments = torch.cat(segments)
        per_layer = len(queries[0])  # the same in all layers
        for start in range(0, len(segments), size):
            stop = min(start + size, len(segments))
            chosen: LayerQueries = []
            for layer in range(start // per_layer, (stop - 1) // per_layer + 1):
                first = layer * per_layer
                chosen.append((layer, queries[layer][max(start - first, 0) : stop - first]))
            yield slice(start, stop), chosen, segments[start:stop]


def _evaluate(
    matched: MatchedMasks, loss: MaskLoss, scales: Tensor, needed: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """Return sums of the losses of each layer, (2, L), and gradients of `scales` (2, L) times them."""
    predictions = matched.predictions
    # Matrix products are faster with more masks at a time than the loss.
    masks_per_chunk = max(8 * loss.chunk_elements // (predictions.size[0] * predictions.size[1]), 1)
    gradients = predictions.new_gradients(needed)
    sums = torch.zeros_like(scales)
    for image, target in enumerate(matched.targets):
        image_loss = loss.on_image(image, target)
        per_layer = len(matched.matches[0][image][0])
        values = scales.new_empty((2, predictions.num_layers * per_layer))
        scale_of_mask = scales.repeat_interleave(per_layer, 1)
        for place, queries, segments in matched.chunks(image, masks_per_chunk):
            chunk = MaskChunk(predictions.logits(image, queries), segments, place.start)
            values[:, place], gradient = image_loss(chunk, scale_of_mask[:, place] if any(needed) else None)
            if gradient is not None:
                predictions.add_gradient(gradients, image, queries, gradient)
        sums += values.view(2, predictions.num_layers, per_layer).sum(2)
    return sums, gradients


class _MatchedLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        matched: MatchedMasks,
        loss: MaskLoss,
        weights: Sequence[float],
        divisor: Tensor,
        needs_gradient: bool,
        *factors: Tensor,
    ) -> Tensor:
        ctx.matched, ctx.loss = matched, loss
        ctx.needed = [needs_gradient and need for need in ctx.needs_input_grad[5:]]
        scale = 1 / divisor.to(matched.predictions.dtype)
        ctx.scales = torch.stack([weight * scale for weight in weights])[:, None].repeat(
            1, matched.predictions.num_layers
        )
        sums, gradients = _evaluate(matched, loss, ctx.scales, ctx.needed)
        ctx.save_for_backward(*gradients)
        return sums * ctx.scales

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        gradients = ctx.saved_tensors
        factors = set(upstream.flatten().tolist())
        if len(factors) > 1:
            # The stored gradient is that of the plain sum. The caller weights layers or losses: recompute it.
            gradients = _evaluate(ctx.matched, ctx.loss, upstream * ctx.scales, ctx.needed)[1]
        elif factors != {1.0}:
            factor = factors.pop()
            gradients = [None if gradient is None else gradient * factor for gradient in gradients]
        return None, None, None, None, None, *gradients
