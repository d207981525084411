"""Mask logits of all decoder layers, formed only where they are needed.

A decoder returns either finished masks or their factors: one embedding per query and features per pixel,
whose dot products are the masks. In the factored form only the requested masks, pixels or points are
computed.

Shape shorthand: L layers, N images, Q queries, C channels, h w pixels of a mask, m masks (some queries of
some layers), P points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .point_sampling import corners

# Some masks of an image as (layer, (queries,) int64) pairs.
LayerQueries = list[tuple[int, Tensor]]


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
        self._latest: tuple[int, Tensor] | None = None

    def pixels(self, image: int, start: int, stop: int) -> Tensor:
        """Return the (L * Q, stop - start) logits of a range of pixels of the flattened masks."""
        if self.is_factored:
            return self._embeddings[image].flatten(0, 1) @ self._features(image)[:, start:stop]
        masks = [layer[image].detach().flatten(1)[:, start:stop] for layer in self.factors]
        return torch.cat(masks).to(self.dtype)

    def logits(self, image: int, queries: LayerQueries) -> Tensor:
        """Return the (m, h, w) logits of some masks."""
        if self.is_factored:
            logits = self._query_embeddings(image, queries) @ self._features(image)
            return logits.unflatten(1, self.size)
        masks = [self.factors[layer][image].detach()[index] for layer, index in queries]
        return torch.cat(masks).to(self.dtype)

    def at_points(self, image: int) -> Callable[[int, Tensor], Tensor]:
        """Return a function of layer and points (P, 2), see `corners`, that gives the logits (Q, P) there."""
        if not self.is_factored:
            return lambda layer, points: self._masks_at_points(image, layer, points)
        # Sampling is linear, so it commutes with the dot product: C samples instead of Q complete masks. A
        # sample is the weighted sum of four pixels, which are rows of a table.
        table = self._features(image).t().contiguous()

        def sampled(layer: int, points: Tensor) -> Tensor:
            pixels, shares = zip(*corners(points, self.size), strict=True)
            indices, weights = torch.stack(pixels, -1), torch.stack(shares, -1)
            features = F.embedding_bag(indices, table, per_sample_weights=weights, mode="sum")
            return (features @ self._embeddings[image, layer].t()).t()

        return sampled

    def new_gradients(self, needed: Sequence[bool]) -> list[Tensor | None]:
        """Return zeros like the factors, float32 or float64; None for factors that need no gradient."""
        dtypes = [self.dtype if self.is_factored else factor.dtype for factor in self.factors]
        return [
            torch.zeros_like(factor, dtype=dtype, memory_format=torch.contiguous_format) if need else None
            for factor, dtype, need in zip(self.factors, dtypes, needed, strict=True)
        ]

    def add_gradient(
        self, gradients: list[Tensor | None], image: int, queries: LayerQueries, upstream: Tensor
    ) -> None:
        """Add the gradient of the factors, given that of `logits`, (m, h, w). Add each mask only once."""
        counts = [len(index) for _, index in queries]
        if not self.is_factored:
            for (layer, index), part in zip(queries, upstream.split(counts), strict=True):
                if gradients[layer] is not None:
                    gradients[layer][image, index] = part.to(gradients[layer].dtype)
            return
        upstream = upstream.flatten(1)
        embeddings, features = gradients
        if features is not None:
            features[image].flatten(1).addmm_(self._query_embeddings(image, queries).t(), upstream)
        if embeddings is not None:
            parts = (upstream @ self._features(image).t()).split(counts)
            for (layer, index), part in zip(queries, parts, strict=True):
                embeddings[image, layer, index] = part

    def _query_embeddings(self, image: int, queries: LayerQueries) -> Tensor:
        """Return the embeddings of some queries, (m, C)."""
        return torch.cat([self._embeddings[image, layer, index] for layer, index in queries])

    def _features(self, image: int) -> Tensor:
        """Return (C, h * w) features; the latest image's are cached, since they may have been converted."""
        if self._latest is None or self._latest[0] != image:
            self._latest = image, self.factors[1][image].detach().to(self.dtype).flatten(1)
        return self._latest[1]

    def _masks_at_points(self, image: int, layer: int, points: Tensor) -> Tensor:
        masks = self.factors[layer][image].detach().flatten(1)
        places = corners(points, self.size)
        return sum(masks.index_select(1, index).to(self.dtype) * weight for index, weight in places)
