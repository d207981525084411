"""Mask logits of all decoder layers, formed only where they are needed.

A decoder hands over either finished masks or their factors: one embedding per query and features per pixel,
whose dot products the masks are. In the factored form only the pixels, rows or points asked for are ever
computed.

Letters: L layers, N images, Q queries, C channels, h w pixels of a mask, M rows (matched masks), P points.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


class MaskPredictions:
    """Read access to the masks of L layers.

    Args:
        layers: L tensors, each (N, Q, h, w) float mask logits; with `features`, each (N, Q, C) mask
            embeddings.
        features: (N, C, h, w) float, shared by all layers, whose masks are
            einsum("nqc,nchw->nqhw", layer, features).

    All results are float32, or float64 where the predictions are.
    """

    def __init__(self, layers: list[Tensor], features: Tensor | None = None):
        masks = layers[0] if features is None else features
        self.num_layers = len(layers)
        self.num_images, self.num_queries = layers[0].shape[:2]
        self.size: tuple[int, int] = (masks.shape[-2], masks.shape[-1])
        self.device = masks.device
        self.dtype = torch.float64 if masks.dtype == torch.float64 else torch.float32
        self.features = features
        if features is None:
            self._layers = layers
        else:
            self._embeddings = torch.stack(layers, 1).to(self.dtype)  # (N, L, Q, C)

    @classmethod
    def from_outputs(cls, outputs: Mapping) -> MaskPredictions:
        """Takes the outputs that `SetCriterion.forward` describes; the main prediction is the last layer."""
        layers = [*outputs.get("aux_outputs", ()), outputs]
        if "pred_masks" in outputs:
            return cls([layer["pred_masks"] for layer in layers])
        return cls([layer["mask_embed"] for layer in layers], outputs["mask_features"])

    def pixels(self, image: int, start: int, stop: int) -> Tensor:
        """(L * Q, stop - start) logits of a range of pixels of the flattened masks, without gradient."""
        if self.features is None:
            rows = [layer[image].detach().flatten(1)[:, start:stop] for layer in self._layers]
            return torch.cat(rows).to(self.dtype)
        features = self.features[image].detach().flatten(1)[:, start:stop]
        return self._embeddings[image].detach().flatten(0, 1) @ features.to(self.dtype)

    def rows(self, image: int, queries: list[Tensor]) -> Tensor:
        """(M, h, w) logits of the queries (one index tensor per layer) of all layers, with gradient."""
        if self.features is None:
            return torch.cat(
                [
                    layer[image][index].to(self.dtype)
                    for layer, index in zip(self._layers, queries, strict=True)
                ]
            )
        rows = torch.cat([index + layer * self.num_queries for layer, index in enumerate(queries)])
        embeddings = self._embeddings[image].flatten(0, 1)[rows]
        return (embeddings @ self.features[image].to(self.dtype).flatten(1)).unflatten(1, self.size)

    def at_points(self, image: int, layer: int, points: Tensor) -> Tensor:
        """(Q, P) bilinear samples at points (P, 2) float (x, y) in [0, 1], without gradient."""
        maps = self._layers[layer] if self.features is None else self.features
        samples = sample_bilinear(maps[image].detach()[None].to(self.dtype), points[None])[0]
        # Sampling is linear, so it commutes with the dot product: C samples instead of Q whole masks.
        return samples if self.features is None else self._embeddings[image, layer].detach() @ samples


def sample_bilinear(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples; outside of the map 0.

    Args:
        maps: (N, C, h, w) float.
        points: (N, P, 2) float (x, y) in [0, 1]: fractions of width and height, 0 the outer edge of the first
            pixel.

    Returns:
        (N, C, P)
    """
    grid = (2 * points - 1)[:, None].to(maps.dtype)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, :, 0]
