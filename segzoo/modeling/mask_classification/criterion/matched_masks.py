"""Losses of matched masks, with the gradient computed together with them, a few masks at a time.

Autograd would keep every matched mask, and several planes of its size, until the backward pass. Here a chunk
of masks is formed, its losses and gradient are computed, the gradient is added to those of the embeddings and
features, and the chunk is freed before the next.

Shape shorthand: L layers, N images, M matched masks of the batch (image by image, those of an image layer by
layer), m masks of a chunk, h w pixels of a mask. Where a dimension is 2, the mask loss comes first and the
dice loss second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .flat_matches import FlatMatches
from .mask_predictions import ChosenMasks, LayerMasks, MaskPredictions
from .target_batch import TargetBatch


class MaskChunk(NamedTuple):
    """Some matched masks.

    Attributes:
        logits: (m, h, w) float32 or float64.
        images, segments: (m,) int64, the image of each mask, and its segment among the image's.
        start: index of the first mask among the batch's M.
    """

    logits: Tensor
    images: Tensor
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


class MaskLoss(Protocol):
    """How masks are compared; processes best about `chunk_elements` pixels at a time."""

    chunk_elements: int

    def __call__(self, chunk: MaskChunk, targets: TargetBatch, scales: Tensor | None) -> ChunkLosses:
        """Compute losses, and with `scales` (2, m), factors of the losses, the gradient of their sum.

        The same arguments give the same result.
        """


@dataclass
class MatchedMasks:
    """The masks of all layers and images, and the segments that they are matched with.

    Attributes:
        predictions: L layers of N images.
        targets: the segments of these images.
        matches: of these layers.
        gradient_in_forward: compute the gradient together with the losses, for a sum of all losses, which
            saves work where the backward pass can cheaply see whether it is given another weighting; False:
            compute it in the backward pass, which then reads nothing back from the device. By default the
            first on a CPU.
    """

    predictions: MaskPredictions
    targets: TargetBatch
    matches: FlatMatches
    gradient_in_forward: bool | None = None

    def __post_init__(self) -> None:
        if self.gradient_in_forward is None:
            self.gradient_in_forward = self.predictions.device.type == "cpu"

    def losses(self, loss: MaskLoss, weights: Sequence[float], divisor: Tensor) -> Tensor:
        """Return the losses of each layer, (2, L); differentiable once.

        Args:
            loss: how masks are compared.
            weights: factors of the mask and the dice loss.
            divisor: scalar, divides the sums over all matches of a layer.
        """
        needs_gradient = torch.is_grad_enabled()
        return _MatchedLosses.apply(self, loss, weights, divisor, needs_gradient, *self.predictions.factors)

    def chunks(self, size: int) -> Iterator[tuple[slice, ChosenMasks]]:
        """Yield groups of at most `size` masks, with their slice of M."""
        embeddings = self.matches.query_indices()
        for start in range(0, len(self.matches), size):
            stop = min(start + size, len(self.matches))
            parts = [
                LayerMasks(image, layer, slice(max(own.start, start) - start, min(own.stop, stop) - start))
                for image, layer, own in self.matches.parts
                if own.start < stop and own.stop > start
            ]
            chunk = slice(start, stop)
            yield chunk, ChosenMasks(parts, self.matches.queries[chunk], embeddings[chunk])


def _evaluate(
    matched: MatchedMasks, loss: MaskLoss, scales: Tensor, needed: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """Return sums of the losses of each layer, (2, L), and gradients of `scales` (2, L) times them."""
    predictions, matches = matched.predictions, matched.matches
    # Matrix products are faster with more masks at a time than the loss.
    masks_per_chunk = max(8 * loss.chunk_elements // (predictions.size[0] * predictions.size[1]), 1)
    gradients = predictions.new_gradients(needed)
    values = scales.new_empty((2, len(matches)))
    scale_of_mask = scales[:, matches.layers] if any(needed) else None
    for place, masks in matched.chunks(masks_per_chunk):
        chunk = MaskChunk(
            predictions.logits(masks), matches.images[place], matches.segments[place], place.start
        )
        own_scales = None if scale_of_mask is None else scale_of_mask[:, place]
        values[:, place], gradient = loss(chunk, matched.targets, own_scales)
        if gradient is not None:
            predictions.add_gradient(gradients, masks, gradient)
    return matches.layer_sums(values), gradients


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
        now = ctx.needed if matched.gradient_in_forward else [False] * len(ctx.needed)
        sums, gradients = _evaluate(matched, loss, ctx.scales, now)
        if matched.gradient_in_forward:
            ctx.save_for_backward(*gradients)
        return sums * ctx.scales

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        gradients = ctx.saved_tensors
        # Without stored gradients nothing is read back from the device.
        factors = set(upstream.flatten().tolist()) if gradients else set()
        if len(factors) != 1:
            # A stored gradient is that of the plain sum, but the caller weights layers or losses.
            gradients = _evaluate(ctx.matched, ctx.loss, upstream * ctx.scales, ctx.needed)[1]
        elif factors != {1.0}:
            factor = factors.pop()
            gradients = [None if gradient is None else gradient * factor for gradient in gradients]
        return None, None, None, None, None, *gradients
