"""Bipartite matching of queries with ground-truth segments (DETR §3.1, MaskFormer §3.3, Mask2Former §3.3).

Letters: L layers, N images, Q queries, K classes, S segments of an image, H W pixels, P points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from segzoo.layers.runtime import transferred, without_autocast
from segzoo.utils.errors import InputError

from .mask_predictions import MaskPredictions
from .point_sampling import RandomPoints
from .target_masks import SegmentTargets

FOCAL_ALPHA = 0.25  # the exponent gamma is 2 throughout
MASK_LOSSES = ("focal", "bce")

# Matches of one layer: for each image (query_indices, segment_indices), both int64 of length min(Q, S).
Matches = list[tuple[Tensor, Tensor]]


class NonFiniteCostError(FloatingPointError):
    """The predictions of a layer hold NaN or infinity, so that they cannot be matched.

    Attributes:
        image: index of the image in the batch.
        layer: index of the layer; the last is the main prediction.
    """

    def __init__(self, image: int, layer: int, num_layers: int):
        super().__init__(
            f"non-finite matching cost for image {image} of the batch at layer {layer} of {num_layers}: the "
            "predictions hold NaN or infinity; lower SOLVER.BASE_LR or clip gradients"
        )
        self.image = image
        self.layer = layer


class HungarianMatcher(nn.Module):
    """Assigns to each segment the query that predicts it at least total cost, every query at most once.

    Args:
        class_weight, mask_weight, dice_weight: factors of the three costs: minus the probability of the
            segment's class, the mask loss averaged over pixels, and the dice loss.
        mask_loss: "focal" (sigmoid focal loss, alpha 0.25, gamma 2) or "bce".
        num_points: compare masks on so many random points, the same for all masks of an image and layer
            (Mask2Former); 0: on all pixels of the predictions' resolution (MaskFormer).
        chunk_elements: so many mask logits at most are formed at a time; None: chosen by device.
    """

    def __init__(
        self,
        class_weight: float = 1.0,
        mask_weight: float = 20.0,
        dice_weight: float = 1.0,
        mask_loss: str = "focal",
        num_points: int = 0,
        chunk_elements: int | None = None,
    ):
        super().__init__()
        if mask_loss not in MASK_LOSSES:
            raise InputError(
                f"MODEL.MASK_FORMER.MASK_LOSS {mask_loss!r} is unknown; use one of {', '.join(MASK_LOSSES)}"
            )
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.mask_loss = mask_loss
        self.num_points = num_points
        self.chunk_elements = chunk_elements

    def forward(self, outputs: Mapping, targets: Sequence[SegmentTargets]) -> Matches:
        """Matches one layer.

        Args:
            outputs: `pred_logits` (N, Q, K+1) and `pred_masks` (N, Q, h, w), or the factored form of
                `SetCriterion.forward`; auxiliary outputs are not looked at.
            targets: one for each of the N images.

        Returns:
            N pairs (query_indices, segment_indices) of int64 tensors of length min(Q, S), queries ascending.

        Raises:
            NonFiniteCostError: a cost is NaN or infinite.
        """
        last_layer = {key: value for key, value in outputs.items() if key != "aux_outputs"}
        predictions = MaskPredictions.from_outputs(last_layer)
        return self.match_layers([outputs["pred_logits"]], predictions, targets)[0]

    @torch.no_grad()
    def match_layers(
        self,
        logits: Sequence[Tensor],
        predictions: MaskPredictions,
        targets: Sequence[SegmentTargets],
        points: RandomPoints | None = None,
    ) -> list[Matches]:
        """Matches L layers with a single copy from the device: L times what `forward` returns.

        Args:
            logits: L tensors (N, Q, K+1).
            predictions: the masks of the same L layers.
            targets: one for each of the N images.
            points: where masks are compared, with `num_points`; None: random.
        """
        points = points or RandomPoints()
        with without_autocast(predictions.device):
            costs = [
                self._costs(logits, predictions, image, target, points)
                for image, target in enumerate(targets)
            ]
        flat_costs = (
            torch.cat([cost.flatten() for cost in costs]).cpu().split([cost.numel() for cost in costs])
        )
        matches: list[Matches] = [[] for _ in logits]
        for image, (cost, flat_cost) in enumerate(zip(costs, flat_costs, strict=True)):
            for layer, matrix in enumerate(flat_cost.view(cost.shape)):
                if not matrix.isfinite().all():
                    raise NonFiniteCostError(image, layer, len(logits))
                matches[layer].append(tuple(map(torch.from_numpy, linear_sum_assignment(matrix.numpy()))))
        return _to_device(matches, predictions.device)

    def _costs(
        self,
        logits: Sequence[Tensor],
        predictions: MaskPredictions,
        image: int,
        target: SegmentTargets,
        points: RandomPoints,
    ) -> Tensor:
        """(L, Q, S) costs of one image."""
        probabilities = torch.stack([layer[image] for layer in logits]).to(predictions.dtype).softmax(-1)
        class_costs = -probabilities[..., target.classes]
        if len(target) == 0:
            return class_costs
        if self.num_points:
            mask_costs, dice_costs = self._point_costs(predictions, image, target, points)
        else:
            mask_costs, dice_costs = self._dense_costs(predictions, image, target)
        return (
            self.class_weight * class_costs
            + self.mask_weight * mask_costs.view_as(class_costs)
            + self.dice_weight * dice_costs.view_as(class_costs)
        )

    def _dense_costs(
        self, predictions: MaskPredictions, image: int, target: SegmentTargets
    ) -> tuple[Tensor, Tensor]:
        """(L*Q, S) mask and dice costs over all pixels, a range of pixels at a time."""
        target = target.resize_nearest(predictions.size)
        pixels = predictions.size[0] * predictions.size[1]
        step = self._chunk_elements(predictions) // (predictions.num_layers * predictions.num_queries) or 1
        sums = _CostSums(self.mask_loss)
        for start in range(0, pixels, step):
            stop = min(start + step, pixels)
            sums.add(predictions.pixels(image, start, stop), target.one_hot(start, stop, predictions.dtype))
        return sums.costs(pixels)

    def _point_costs(
        self, predictions: MaskPredictions, image: int, target: SegmentTargets, points: RandomPoints
    ) -> tuple[Tensor, Tensor]:
        """(L*Q, S) mask and dice costs over random points, drawn for every layer, some at a time."""
        segments = torch.arange(len(target), device=predictions.device)
        like = torch.empty((), dtype=predictions.dtype, device=predictions.device)
        step = max(self._chunk_elements(predictions) // predictions.num_queries, 1)
        sampled = predictions.at_points(image)
        costs = []
        for layer in range(predictions.num_layers):
            sums = _CostSums(self.mask_loss)
            for part in points.for_matching(image, layer, self.num_points, like).split(step):
                sums.add(sampled(layer, part), target.sample(segments, part[None]).t())
            costs.append(sums.costs(self.num_points))
        mask_costs, dice_costs = zip(*costs, strict=True)
        return torch.cat(mask_costs), torch.cat(dice_costs)

    def _chunk_elements(self, predictions: MaskPredictions) -> int:
        # On a CPU a chunk and its few intermediates stay in the cache; a GPU wants long vectors.
        return self.chunk_elements or (2**18 if predictions.device.type == "cpu" else 2**24)


class _CostSums:
    """Accumulates, over groups of pixels, the sums of which mask and dice costs are made.

    With `on` and `off` the loss of a pixel where the segment is and is not, the mask cost of a pair is
    sum(on * t + off * (1 - t)) = (on - off) @ t + sum(off), so a matrix product over pixels serves all pairs.
    """

    def __init__(self, mask_loss: str):
        self.mask_loss = mask_loss
        self.difference: Tensor | float = 0.0  # (R, S) sum of (on - off) over the segment
        self.off: Tensor | float = 0.0  # (R, 1) sum of off over all pixels
        self.overlap: Tensor | float = 0.0  # (R, S) sum of probabilities over the segment
        self.probability: Tensor | float = 0.0  # (R, 1) sum of probabilities
        self.area: Tensor | float = 0.0  # (S,)

    def add(self, logits: Tensor, membership: Tensor) -> None:
        """Adds logits (R, pixels) against membership (pixels, S) in [0, 1]."""
        probability = logits.sigmoid()
        off = F.softplus(logits)
        if self.mask_loss == "focal":
            # on = alpha (1-p)^2 (softplus(x) - x), off = (1-alpha) p^2 softplus(x)
            on = off.sub(logits).mul_(FOCAL_ALPHA).mul_((1 - probability).square_())
            off = off.mul_(1 - FOCAL_ALPHA).mul_(probability.square())
            difference = on.sub_(off)
        else:
            difference = -logits
        self.difference = self.difference + difference @ membership
        self.off = self.off + off.sum(1, keepdim=True)
        self.overlap = self.overlap + probability @ membership
        self.probability = self.probability + probability.sum(1, keepdim=True)
        self.area = self.area + membership.sum(0)

    def costs(self, pixels: int) -> tuple[Tensor, Tensor]:
        """(R, S) mask cost, averaged over so many pixels, and (R, S) dice cost."""
        dice = 1 - (2 * self.overlap + 1) / (self.probability + self.area + 1)
        return (self.difference + self.off) / pixels, dice


def _to_device(matches: list[Matches], device: torch.device) -> list[Matches]:
    """Moves all index tensors in one copy."""
    if device.type == "cpu":
        return matches
    indices = [index for layer in matches for pair in layer for index in pair]
    moved = iter(transferred(torch.cat(indices), device).split([len(index) for index in indices]))
    return [[(next(moved), next(moved)) for _ in layer] for layer in matches]
