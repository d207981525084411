"""The inputs of a loss term: the predictions of one decoder layer and the segments matched with them.

Shape shorthand: N images, Q queries, K classes, M matched masks of the batch, h w pixels of a mask, P pixels
or points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from segzoo.layers.runtime import PendingMeans

from .comparison import Comparison, DrawPoints
from .decoder_outputs import mask_logits
from .matcher import Matches
from .pixel_losses import ComparedPixels
from .point_sampling import RandomPoints
from .target_masks import SegmentTargets


class Counts(NamedTuple):
    """Divisors of sums: means over processes, so that N processes train like one on all their batches.

    Attributes:
        masks: float scalar, number of segments of the batch, at least 1.
        matched, unmatched: float scalars, number of queries of a layer with and without a segment.
    """

    masks: Tensor
    matched: Tensor
    unmatched: Tensor


class PendingCounts:
    """Counts of a layer on their way between processes.

    Attributes:
        targets, num_queries: what they are for.
    """

    def __init__(self, num_masks: int, num_matched: int, targets: Sequence[SegmentTargets], num_queries: int):
        """Start to exchange the counts, by one collective call.

        Args:
            num_masks: number that sums over masks are divided by, of the N images.
            num_matched: number of their queries with a segment.
            targets: of the N images.
        """
        self.targets, self.num_queries = targets, num_queries
        unmatched = len(targets) * num_queries - num_matched
        self._means = PendingMeans([num_masks, num_matched, unmatched], targets[0].classes.device)

    def counts(self) -> Counts:
        """Return the counts, after waiting for them."""
        masks, *queries = self._means.values()
        return Counts(masks.clamp(min=1), *queries)


@dataclass(frozen=True, eq=False)
class MatchedLayer:
    """The predictions of one decoder layer with the ground truth.

    Attributes:
        outputs: everything that the decoder returned for this layer, by name, including `pred_logits`.
        targets: ground truth of N images.
        matches: N pairs (query_indices, segment_indices).
        counts: divisors of sums.
        index, num_layers: position of this layer, first layer first, and number of layers; the last layer is
            the main prediction.
        dtype: dtype in which losses are computed, float32 or float64.
        comparison: which pixels or points of masks are compared.
        points: source of random points.
    """

    outputs: Mapping
    targets: Sequence[SegmentTargets]
    matches: Matches
    counts: Counts
    index: int
    num_layers: int
    dtype: torch.dtype
    comparison: Comparison
    points: RandomPoints

    @property
    def is_last(self) -> bool:
        return self.index == self.num_layers - 1

    @property
    def num_masks(self) -> Tensor:
        """Float scalar, the divisor of sums over matched masks."""
        return self.counts.masks

    @property
    def logits(self) -> Tensor:
        """(N, Q, K + 1) class logits; the last is "no object"."""
        return self.outputs["pred_logits"].to(self.dtype)

    @cached_property
    def masks(self) -> Tensor:
        """(N, Q, h, w) mask logits of all queries."""
        return mask_logits(self.outputs).to(self.dtype)

    @cached_property
    def compared(self) -> ComparedPixels:
        """All matched masks, (M, P) logits, and their segments, (M, P) membership, at the same points."""
        logits, memberships = [], []
        for image, (queries, segments) in enumerate(self.matches):
            masks = self.masks[image, queries]
            if len(queries):
                own = self.comparison(masks, self.targets[image], segments, self._draw(image, masks))
                logits.append(own[0])
                memberships.append(own[1])
        if not logits:
            nothing = self.masks[0, :0].flatten(1)
            return ComparedPixels(nothing, nothing.detach())
        return ComparedPixels(torch.cat(logits), torch.cat(memberships))

    def matched(self, values: Tensor) -> Tensor:
        """Return the rows of (N, Q, ...) values for matched queries, (M, ...), image by image."""
        return torch.cat([values[image, queries] for image, (queries, _) in enumerate(self.matches)])

    def matched_extra(self, name: str) -> Tensor:
        """Return the extra target `name` of the matched segments, (M, ...), image by image."""
        return torch.cat(
            [
                target.extras[name][segments]
                for target, (_, segments) in zip(self.targets, self.matches, strict=True)
            ]
        )

    def with_queries(self, outputs: Mapping, matches: Matches) -> MatchedLayer:
        """Return a layer of other queries with known segments, such as denoising queries, for any term.

        Args:
            outputs: outputs by name, like those of a layer.
            matches: N pairs (query_indices, segment_indices); losses are divided by their number.
        """
        number = sum(len(queries) for queries, _ in matches)
        pending = PendingCounts(number, number, self.targets, outputs["pred_logits"].shape[1])
        return replace(self, outputs=outputs, matches=matches, counts=pending.counts())

    def _draw(self, image: int, like: Tensor) -> DrawPoints:
        # Matched masks are numbered image by image, those of an image layer by layer, as many in each layer.
        before = sum(len(queries) for queries, _ in self.matches[:image])
        start = before * self.num_layers + self.index * len(like)
        return lambda count: self.points.for_losses(start, start + len(like), count, like.detach())
