"""Bipartite matching of queries with ground-truth segments (DETR §3.1, MaskFormer §3.3, Mask2Former §3.3).

Shape shorthand: L layers, N images, Q queries, S segments of an image, P points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from detectron2.config import configurable
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from segzoo.layers.runtime import transferred, without_autocast

from ...registry import MATCHING_COST_REGISTRY, registered
from .assignment import costs_on_cpu
from .costs import MatchingCost, PixelCost, QueryCost
from .decoder_outputs import DecoderOutputs
from .pixel_losses import ComparedPixels
from .point_sampling import RandomPoints
from .target_masks import SegmentTargets

# Matches of one layer: for each image (query_indices, segment_indices), both int64 of length min(Q, S).
Matches = list[tuple[Tensor, Tensor]]


def find_costs(cfg) -> list[Callable[..., MatchingCost]]:
    """Return the cost classes that MODEL.MASK_FORMER.MATCHING_COSTS names; each is built with `cfg`."""
    key = "MODEL.MASK_FORMER.MATCHING_COSTS"
    return [registered(MATCHING_COST_REGISTRY, key, name) for name in cfg.MODEL.MASK_FORMER.MATCHING_COSTS]


class HungarianMatcher(nn.Module):
    """Assigns queries to segments at the least total cost, each query to at most one segment.

    Args:
        costs: instances of `QueryCost` and `PixelCost`; their weighted sum is minimized.
        num_points: number of random points on which masks are compared, the same for all masks of an image
            and layer (Mask2Former); 0: all pixels at the predictions' resolution (MaskFormer).
        chunk_elements: maximum number of mask logits formed at a time; None: chosen by device.
    """

    @configurable
    def __init__(self, costs: Sequence[MatchingCost], num_points: int = 0, chunk_elements: int | None = None):
        super().__init__()
        for cost in costs:
            if not isinstance(cost, QueryCost | PixelCost):
                raise TypeError(
                    f"{type(cost).__name__} is not a matching cost: derive it from QueryCost or PixelCost"
                )
        self.costs = list(costs)
        self.num_points = num_points
        self.chunk_elements = chunk_elements

    @classmethod
    def from_config(cls, cfg) -> dict:
        return {
            "costs": [cost(cfg) for cost in find_costs(cfg)],
            "num_points": cfg.MODEL.MASK_FORMER.TRAIN_NUM_POINTS,
        }

    @torch.no_grad()
    def forward(
        self,
        outputs: DecoderOutputs,
        targets: Sequence[SegmentTargets],
        points: RandomPoints | None = None,
    ) -> list[Matches]:
        """Match all layers, with a single device-to-host copy.

        Args:
            outputs: outputs of L layers with Q queries each.
            targets: one for each of the N images.
            points: source of the points where masks are compared, with `num_points`; None: random.

        Returns:
            for each of the L layers, N pairs (query_indices, segment_indices) of int64 tensors of length
            min(Q, S), queries in ascending order.

        Raises:
            NonFiniteCostError: a cost is NaN or infinite.
        """
        points = points or RandomPoints()
        with without_autocast(outputs.device):
            costs = [self.total_costs(outputs, image, target, points) for image, target in enumerate(targets)]
        matches: list[Matches] = [[] for _ in outputs.layers]
        for array in costs_on_cpu(costs):
            for layer, matrix in enumerate(array):
                matches[layer].append(tuple(map(torch.from_numpy, linear_sum_assignment(matrix))))
        return _to_device(matches, outputs.device)

    def total_costs(
        self, outputs: DecoderOutputs, image: int, target: SegmentTargets, points: RandomPoints
    ) -> Tensor:
        """Return the weighted sum of all costs of one image, (L, Q, S)."""
        shape = (outputs.masks.num_layers, outputs.masks.num_queries, len(target))
        total = torch.zeros(shape, dtype=outputs.dtype, device=outputs.device)
        if len(target) == 0:
            return total
        pixel_costs = iter(self._pixel_costs(outputs, image, target, points))
        for cost in self.costs:
            if isinstance(cost, QueryCost):
                values = cost.costs(outputs, image, target)
            else:
                values = next(pixel_costs).unflatten(0, shape[:2])
            # A smaller shape would be broadcast silently over layers or queries.
            if values.shape != total.shape:
                raise ValueError(
                    f"{type(cost).__name__} returned costs of shape {tuple(values.shape)}; expected (layers, "
                    f"queries, segments), {shape}"
                )
            total += cost.weight * values
        return total

    def _pixel_costs(
        self, outputs: DecoderOutputs, image: int, target: SegmentTargets, points: RandomPoints
    ) -> list[Tensor]:
        """Return (L * Q, S) values of each `PixelCost`."""
        costs = [cost for cost in self.costs if isinstance(cost, PixelCost)]
        if not costs:
            return []
        if self.num_points:
            return self._costs_on_points(costs, outputs, image, target, points)
        return self._costs_on_pixels(costs, outputs, image, target)

    def _costs_on_pixels(
        self, costs: Sequence[PixelCost], outputs: DecoderOutputs, image: int, target: SegmentTargets
    ) -> list[Tensor]:
        masks = outputs.masks
        target = target.resize_nearest(masks.size)
        pixels = masks.size[0] * masks.size[1]
        step = self._chunk_elements(outputs.device) // (masks.num_layers * masks.num_queries) or 1
        sums = _CostSums(costs)
        for start in range(0, pixels, step):
            stop = min(start + step, pixels)
            sums.add(masks.pixels(image, start, stop), target.one_hot(start, stop, masks.dtype))
        return sums.combined(pixels)

    def _costs_on_points(
        self,
        costs: Sequence[PixelCost],
        outputs: DecoderOutputs,
        image: int,
        target: SegmentTargets,
        points: RandomPoints,
    ) -> list[Tensor]:
        """Return costs like `_costs_on_pixels`, on points that are drawn for every layer."""
        masks = outputs.masks
        segments = torch.arange(len(target), device=masks.device)
        like = torch.empty((), dtype=masks.dtype, device=masks.device)
        step = max(self._chunk_elements(outputs.device) // masks.num_queries, 1)
        sampled = masks.at_points(image)
        layers = []
        for layer in range(masks.num_layers):
            sums = _CostSums(costs)
            for part in points.for_matching(image, layer, self.num_points, like).split(step):
                sums.add(sampled(layer, part), target.sample(segments, part[None]).t())
            layers.append(sums.combined(self.num_points))
        return [torch.cat(values) for values in zip(*layers, strict=True)]

    def _chunk_elements(self, device: torch.device) -> int:
        # On a CPU a chunk and its few intermediates stay in the cache; a GPU is faster with long vectors.
        return self.chunk_elements or (2**18 if device.type == "cpu" else 2**24)


class _CostSums:
    """Sums that costs are computed from, accumulated over groups of pixels."""

    def __init__(self, costs: Sequence[PixelCost]):
        self.costs = costs
        self.sums: list[tuple[Tensor, ...]] = []

    def add(self, logits: Tensor, membership: Tensor) -> None:
        """Add logits (R, P) against membership (P, S) in [0, 1]."""
        pixels = ComparedPixels(logits, membership)
        new = [cost.sums(pixels) for cost in self.costs]
        if self.sums:
            new = [
                tuple(total + part for total, part in zip(*pair, strict=True))
                for pair in zip(self.sums, new, strict=True)
            ]
        self.sums = new

    def combined(self, num_pixels: int) -> list[Tensor]:
        """Return (R, S) values of each cost."""
        return [cost.combine(sums, num_pixels) for cost, sums in zip(self.costs, self.sums, strict=True)]


def _to_device(matches: list[Matches], device: torch.device) -> list[Matches]:
    """Move all index tensors in one copy."""
    if device.type == "cpu":
        return matches
    indices = [index for layer in matches for pair in layer for index in pair]
    moved = iter(transferred(torch.cat(indices), device).split([len(index) for index in indices]))
    return [[(next(moved), next(moved)) for _ in layer] for layer in matches]
