"""Bipartite matching of queries with ground-truth segments (DETR §3.1, MaskFormer §3.3, Mask2Former §3.3).

Shape shorthand: L layers, N images, Q queries, S segments of an image, P points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from detectron2.config import configurable
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from segzoo.layers.runtime import transferred, without_autocast

from ...registry import MATCHING_COST_REGISTRY, registered
from .assignment import costs_of_groups
from .batch_costs import CostSums, query_costs
from .costs import MatchingCost, PixelCost, QueryCost
from .decoder_outputs import DecoderOutputs
from .point_sampling import RandomPoints
from .target_batch import TargetBatch
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
        """Match all layers; the host assigns the queries of an image while a GPU compares later images.

        Args:
            outputs: outputs of L layers with Q queries each.
            targets: one for each of the N >= 1 images.
            points: source of the points where masks are compared, with `num_points`; None: random.

        Returns:
            for each of the L layers, N pairs (query_indices, segment_indices) of int64 tensors of length
            min(Q, S), queries in ascending order.

        Raises:
            NonFiniteCostError: a cost is NaN or infinite.
        """
        points = points or RandomPoints()
        matches: list[Matches] = [[] for _ in outputs.layers]
        groups = self._grouped_costs(outputs, targets, points)
        for array in costs_of_groups(groups, [len(target) for target in targets]):
            for layer, matrix in enumerate(array):
                matches[layer].append(tuple(map(torch.from_numpy, linear_sum_assignment(matrix))))
        return _to_device(matches, outputs.device)

    def total_costs(
        self, outputs: DecoderOutputs, targets: Sequence[SegmentTargets], points: RandomPoints
    ) -> Tensor:
        """Return the weighted sums of all costs, (N, L, Q, S).

        S is the largest number of segments of an image; the columns of segments that another image does not
        have hold any finite values.
        """
        return torch.cat(list(self._grouped_costs(outputs, targets, points)))

    def _grouped_costs(
        self, outputs: DecoderOutputs, targets: Sequence[SegmentTargets], points: RandomPoints
    ) -> Iterator[Tensor]:
        """Yield `total_costs` of one group of images after the other, as they are computed."""
        batch = TargetBatch(targets)
        masks = outputs.masks
        with without_autocast(outputs.device):
            of_queries = {
                cost: query_costs(cost, outputs, targets, batch)
                for cost in self.costs
                if isinstance(cost, QueryCost) and batch.most
            }
            for images, of_pixels in self._pixel_costs(outputs, batch, points):
                shape = (len(images), masks.num_layers, masks.num_queries, batch.most)
                total = torch.zeros(shape, dtype=outputs.dtype, device=outputs.device)
                own = slice(images.start, images.stop)
                for cost in self.costs if batch.most else ():
                    values = of_queries[cost][own] if cost in of_queries else next(of_pixels)
                    total += cost.weight * values
                yield total

    def _pixel_costs(
        self, outputs: DecoderOutputs, batch: TargetBatch, points: RandomPoints
    ) -> Iterator[tuple[range, Iterator[Tensor]]]:
        """Yield groups of images, and the values of each `PixelCost` for them, (images, L, Q, S)."""
        costs = [cost for cost in self.costs if isinstance(cost, PixelCost)]
        if not costs or batch.most == 0:
            return iter([(range(len(batch)), iter(()))])
        if self.num_points:
            return self._costs_on_points(costs, outputs, batch, points)
        return self._costs_on_pixels(costs, outputs, batch)

    def _costs_on_pixels(
        self, costs: Sequence[PixelCost], outputs: DecoderOutputs, batch: TargetBatch
    ) -> Iterator[tuple[range, Iterator[Tensor]]]:
        masks = outputs.masks
        resized = batch.resized(masks.size)
        num_pixels = masks.size[0] * masks.size[1]
        # The masks of all layers have the same pixels.
        rows = masks.num_layers * masks.num_queries
        step = self._chunk_elements(outputs.device) // rows or 1
        shape = (masks.num_layers, masks.num_queries)
        for images in _ranges(len(batch), step // num_pixels):
            sums = CostSums(costs, batch.counts[images.start : images.stop])
            for start in range(0, num_pixels, step):
                stop = min(start + step, num_pixels)
                sums.add(masks.pixels(images, start, stop), resized.one_hot(images, start, stop, masks.dtype))
            yield images, (values.unflatten(1, shape) for values in sums.combined(num_pixels))

    def _costs_on_points(
        self,
        costs: Sequence[PixelCost],
        outputs: DecoderOutputs,
        batch: TargetBatch,
        points: RandomPoints,
    ) -> Iterator[tuple[range, Iterator[Tensor]]]:
        """Yield costs like `_costs_on_pixels`, on points that are drawn for every image and layer."""
        masks, num_points = outputs.masks, self.num_points
        like = torch.empty((), dtype=masks.dtype, device=masks.device)
        drawn = points.for_matching(len(batch), masks.num_layers, num_points, like)
        step = max(self._chunk_elements(outputs.device) // max(masks.num_queries, batch.most), 1)
        for images in _ranges(len(batch), step // (masks.num_layers * num_points)):
            sampled = masks.at_points(images)
            layers_of_part = []
            for layers in _ranges(masks.num_layers, step // num_points):
                sums = CostSums(costs, [n for n in batch.counts[images.start : images.stop] for _ in layers])
                own = drawn[images.start : images.stop, layers.start : layers.stop]
                for part in own.split(step, dim=2):
                    membership = batch.sample_all(images, part.flatten(1, 2))
                    sums.add(
                        sampled(layers, part).flatten(0, 1),
                        membership.unflatten(1, part.shape[1:3]).flatten(0, 1),
                    )
                layers_of_part.append(
                    [values.unflatten(0, own.shape[:2]) for values in sums.combined(num_points)]
                )
            yield images, (torch.cat(values, 1) for values in zip(*layers_of_part, strict=True))

    def _chunk_elements(self, device: torch.device) -> int:
        # On a CPU a chunk and its few intermediates stay in the cache; a GPU is faster with long vectors.
        return self.chunk_elements or (2**18 if device.type == "cpu" else 2**24)


def _ranges(length: int, step: int) -> list[range]:
    """Return consecutive ranges of at most `step`, and at least 1, of `length`."""
    step = max(step, 1)
    return [range(start, min(start + step, length)) for start in range(0, length, step)]


def _to_device(matches: list[Matches], device: torch.device) -> list[Matches]:
    """Move all index tensors in one copy."""
    if device.type == "cpu":
        return matches
    indices = [index for layer in matches for pair in layer for index in pair]
    moved = iter(transferred(torch.cat(indices), device).split([len(index) for index in indices]))
    return [[(next(moved), next(moved)) for _ in layer] for layer in matches]
