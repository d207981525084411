"""Mask logits of all decoder layers, formed only where they are needed.

A decoder returns either finished masks or their factors: one embedding per query and features per pixel,
whose dot products are the masks. In the factored form only the requested masks, pixels or points are
computed.

Shape shorthand: L layers, N images, Q queries, C channels, h w pixels of a mask, m masks (some queries of
some layers), P points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .point_sampling import corners


class LayerMasks(NamedTuple):
    """Where some masks of one layer of one image are among m masks.

    Attributes:
        image, layer: indices.
        place: their rows among the m masks.
    """

    image: int
    layer: int
    place: slice


class ChosenMasks(NamedTuple):
    """Some masks, image by image, those of an image layer by layer.

    Attributes:
        parts: their layers and images, in this order.
        queries: (m,) int64, indices in [0, Q).
        embeddings: (m,) int64, indices into the embeddings of all images and layers, N * L * Q.
    """

    parts: Sequence[LayerMasks]
    queries: Tensor
    embeddings: Tensor


class MaskPredictions:
    """Read access to the masks of L layers, without gradient, and gradients for the tensors they come from.

    Args:
        layers: L tensors, each (N, Q, h, w) float mask logits; with `features`, each (N, Q, C) mask
            embeddings.
        features: (N, C, h, w) float, shared by all layers, whose masks are
            einsum("nqc,nchw->nqhw", layer, features).

    All results are float32, or float64 if the predictions are float64.

    Attributes:
        factors: the tensors that the masks come from, with gradient: the L masks, or the embeddings (N, L, Q,
            C) and the features.
    """

    def __init__(self, layers: list[Tensor], features: Tensor | None = None):
        masks = layers[0] if features is None else features
        self.num_layers = len(layers)
        self.num_images, self.num_queries = layers[0].shape[:2]
        self.size: tuple[int, int] = (masks.shape[-2], masks.shape[-1])
        self.device = masks.device
        self.dtype = torch.float64 if masks.dtype == torch.float64 else torch.float32
        self.is_factored = features is not None
        if self.is_factored:
            self.factors = (torch.stack(layers, 1).to(self.dtype), features)
            self._embeddings = self.factors[0].detach()
        else:
            self.factors = tuple(layers)
        self._converted: tuple[range, Tensor] | None = None

    def pixels(self, images: range, start: int, stop: int) -> Tensor:
        """Return the (images, L * Q, stop - start) logits of a range of pixels of the flattened masks."""
        if self.is_factored:
            embeddings = self._embeddings[images.start : images.stop].flatten(1, 2)
            return embeddings @ self._features(images)[:, :, start:stop]
        masks = [
            layer[images.start : images.stop].detach().flatten(2)[:, :, start:stop] for layer in self.factors
        ]
        return torch.cat(masks, 1).to(self.dtype)

    def at_points(self, images: range) -> Callable[[range, Tensor], Tensor]:
        """Return a function that gives the logits of these images at points.

        Its arguments are some layers and points (images, layers, P, 2), see `corners`; its result is (images,
        layers, Q, P).
        """
        if not self.is_factored:
            return lambda layers, points: torch.stack(
                [
                    torch.stack(list(map(partial(self._masks_at_points, image), layers, own)))
                    for image, own in zip(images, points, strict=True)
                ]
            )
        # Sampling is linear, so it commutes with the dot product: C samples instead of Q complete masks. A
        # sample is the weighted sum of four pixels, which are rows of a table.
        channels, pixels_of_image = self._embeddings.shape[-1], self.size[0] * self.size[1]
        table = self._features(images).transpose(1, 2).reshape(-1, channels).contiguous()
        first = torch.arange(0, len(images) * pixels_of_image, pixels_of_image, device=self.device)
        first = first.view(-1, 1, 1, 1)

        def sampled(layers: range, points: Tensor) -> Tensor:
            pixels, weights = (part.movedim(0, -1).contiguous() for part in corners(points, self.size))
            features = F.embedding_bag(
                (pixels + first).view(-1, 4), table, per_sample_weights=weights.view(-1, 4), mode="sum"
            )
            embeddings = self._embeddings[images.start : images.stop, layers.start : layers.stop].flatten(
                0, 1
            )
            logits = features.view(-1, points.shape[2], channels) @ embeddings.transpose(1, 2)
            return logits.transpose(1, 2).unflatten(0, points.shape[:2])

        return sampled

    def logits(self, masks: ChosenMasks) -> Tensor:
        """Return the (m, h, w) logits of some masks."""
        if not self.is_factored:
            chosen = [
                self.factors[layer][image].detach()[masks.queries[place]]
                for image, layer, place in masks.parts
            ]
            return torch.cat(chosen).to(self.dtype)
        embeddings = self._query_embeddings(masks)
        logits = embeddings.new_empty((len(embeddings), self.size[0] * self.size[1]))
        for image, place in _images(masks.parts):
            torch.mm(embeddings[place], self._image_features(image), out=logits[place])
        return logits.unflatten(1, self.size)

    def new_gradients(self, needed: Sequence[bool]) -> list[Tensor | None]:
        """Return zeros like the factors, float32 or float64; None for factors that need no gradient."""
        dtypes = [self.dtype if self.is_factored else factor.dtype for factor in self.factors]
        return [
            torch.zeros_like(factor, dtype=dtype, memory_format=torch.contiguous_format) if need else None
            for factor, dtype, need in zip(self.factors, dtypes, needed, strict=True)
        ]

    def add_gradient(self, gradients: list[Tensor | None], masks: ChosenMasks, upstream: Tensor) -> None:
        """Add the gradient of the factors, given that of `logits`, (m, h, w). Add each mask only once."""
        if not self.is_factored:
            for image, layer, place in masks.parts:
                if gradients[layer] is not None:
                    gradients[layer][image, masks.queries[place]] = upstream[place].to(gradients[layer].dtype)
            return
        upstream = upstream.flatten(1)
        embeddings, features = gradients
        own = self._query_embeddings(masks)
        of_embeddings = torch.empty_like(own)
        for image, place in _images(masks.parts):
            if features is not None:
                features[image].flatten(1).addmm_(own[place].t(), upstream[place])
            if embeddings is not None:
                torch.mm(upstream[place], self._image_features(image).t(), out=of_embeddings[place])
        if embeddings is not None:
            embeddings.view(-1, embeddings.shape[-1]).index_copy_(0, masks.embeddings, of_embeddings)

    def _query_embeddings(self, masks: ChosenMasks) -> Tensor:
        """Return the embeddings of some queries, (m, C)."""
        return self._embeddings.flatten(0, 2).index_select(0, masks.embeddings)

    def _features(self, images: range) -> Tensor:
        """Return (images, C, h * w) features; the latest are cached, since they may have been converted."""
        if self._converted is None or self._converted[0] != images:
            features = self.factors[1][images.start : images.stop].detach()
            self._converted = images, features.to(self.dtype).flatten(2)
        return self._converted[1]

    def _image_features(self, image: int) -> Tensor:
        return self._features(range(image, image + 1))[0]

    def _masks_at_points(self, image: int, layer: int, points: Tensor) -> Tensor:
        masks = self.factors[layer][image].detach().flatten(1)
        indices, weights = corners(points, self.size)
        pixels = masks.index_select(1, indices.flatten()).to(self.dtype).unflatten(1, (4, -1))
        return (pixels * weights).sum(1)


def _images(parts: Sequence[LayerMasks]) -> list[tuple[int, slice]]:
    """Return each image's rows among the masks."""
    places: dict[int, slice] = {}
    for image, _, place in parts:
        places[image] = slice(places.get(image, place).start, place.stop)
    return list(places.items())
