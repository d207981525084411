"""The matches of all layers and images in one list, so that one operator serves all.

Shape shorthand: L layers, N images, Q queries, M matches (image by image, those of an image layer by layer).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from segzoo.layers.runtime import transferred

from .mask_predictions import LayerMasks
from .matcher import Matches
from .target_masks import SegmentTargets


class FlatMatches:
    """The matches of L layers of N images.

    Args:
        matches: of each layer.
        targets: of each image.
        num_queries: Q.

    Attributes:
        images, layers, queries, segments: (M,) int64, `segments` among those of the image.
        parts: where each layer of each image is among the M.
    """

    def __init__(self, matches: Sequence[Matches], targets: Sequence[SegmentTargets], num_queries: int):
        self._targets = targets
        self._num_layers, self._num_queries = len(matches), num_queries
        pairs = [(image, layer) for image in range(len(targets)) for layer in range(len(matches))]
        # The numbers of matches are known on the host, indices of queries and segments on the device.
        lengths = [len(matches[layer][image][0]) for image, layer in pairs]
        ends = np.cumsum(lengths, dtype=np.int64).tolist()
        self.parts = [
            LayerMasks(*pair, slice(end - length, end))
            for pair, length, end in zip(pairs, lengths, ends, strict=True)
        ]
        self.queries, self.segments = (
            torch.cat([matches[layer][image][which] for image, layer in pairs]) for which in (0, 1)
        )
        first = np.cumsum([0, *map(len, targets)])
        known = np.array([(image, layer, first[image]) for image, layer in pairs], dtype=np.int64)
        known = torch.from_numpy(np.ascontiguousarray(known.repeat(lengths, axis=0).T))
        self.images, self.layers, self._first = transferred(known, self.queries.device).unbind()

    def __len__(self) -> int:
        """Return M."""
        return len(self.queries)

    def query_indices(self) -> Tensor:
        """Return the queries as indices into (N, L, Q), (M,) int64."""
        return (self.images * self._num_layers + self.layers) * self._num_queries + self.queries

    def classes(self) -> Tensor:
        """Return the classes of the segments, (M,) int64."""
        return torch.cat([target.classes for target in self._targets])[self._first + self.segments]

    def layer_sums(self, values: Tensor) -> Tensor:
        """Return the sums of values (n, M) in each layer, (n, L)."""
        # A product, because sums into chosen elements have no fixed order on CUDA devices.
        layers = torch.arange(self._num_layers, device=values.device)
        return values @ (self.layers[:, None] == layers).to(values.dtype)
