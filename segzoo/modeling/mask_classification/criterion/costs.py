"""Terms of the matching cost between queries and segments (DETR §3.1, MaskFormer §3.3, Mask2Former §3.3).

To add a cost, derive it from `QueryCost` or `PixelCost` and register it by name:

    @MATCHING_COST_REGISTRY.register()
    class BoxCost(QueryCost):
        @configurable
        def __init__(self, weight: float = 5.0): ...

        def costs(self, outputs, image, target):
            return torch.cdist(outputs.stacked("pred_boxes", image), target.extras["boxes"], p=1)

and list it in MODEL.MASK_FORMER.MATCHING_COSTS ("ClassCost", "MaskCost", "DiceCost", "BoxCost").

Shape shorthand: N images, L layers, Q queries, K classes, S segments of an image, R queries of one layer or
of all layers, P pixels or points.
"""

from __future__ import annotations

import torch.nn.functional as F
from detectron2.config import configurable
from torch import Tensor

from ...registry import MATCHING_COST_REGISTRY
from .decoder_outputs import DecoderOutputs
from .pixel_losses import FOCAL_ALPHA, ComparedPixels, check_mask_loss
from .target_batch import TargetBatch
from .target_masks import SegmentTargets


class MatchingCost:
    """Base class of all costs.

    Attributes:
        weight: factor of the cost in the sum.
    """

    weight: float


class QueryCost(MatchingCost):
    """A cost computed from complete outputs of the queries of one image."""

    def costs(self, outputs: DecoderOutputs, image: int, target: SegmentTargets) -> Tensor:
        """Return the unweighted costs, (L, Q, S).

        Args:
            outputs: outputs of all layers.
            image: index of the image in the batch.
            target: segments of the image, S >= 1.
        """
        raise NotImplementedError


class PixelCost(MatchingCost):
    """A cost of mask logits against segments that is computed from sums over pixels.

    The masks of all queries are never in memory at full size: a cost receives a group of their pixels at a
    time and returns sums, which are added up over the image and then combined.
    """

    def sums(self, pixels: ComparedPixels) -> tuple[Tensor, ...]:
        """Return sums over a group of pixels, each (R, S) or of a shape that broadcasts to it.

        Args:
            pixels: logits (R, P) and membership (P, S).
        """
        raise NotImplementedError

    def combine(self, sums: tuple[Tensor, ...], num_pixels: int) -> Tensor:
        """Return the unweighted costs, (R, S), from the sums over all pixels."""
        raise NotImplementedError


@MATCHING_COST_REGISTRY.register()
class ClassCost(QueryCost):
    """Negative probability of the segment's class."""

    @configurable
    def __init__(self, weight: float = 1.0):
        self.weight = weight

    @classmethod
    def from_config(cls, cfg) -> dict:
        return {"weight": cfg.MODEL.MASK_FORMER.CLASS_WEIGHT}

    def costs(self, outputs: DecoderOutputs, image: int, target: SegmentTargets) -> Tensor:
        return -outputs.stacked("pred_logits", image).softmax(-1)[..., target.classes]

    def batch_costs(self, outputs: DecoderOutputs, batch: TargetBatch) -> Tensor:
        """Return the costs of N images at once, (N, L, Q, S), for the segments of the image with the most."""
        probabilities = outputs.stacked_layers("pred_logits").softmax(-1)
        classes = batch.padded_classes()[:, None, None].expand(*probabilities.shape[:3], -1)
        return probabilities.gather(-1, classes).neg_()


@MATCHING_COST_REGISTRY.register()
class MaskCost(PixelCost):
    """Focal loss or binary cross-entropy, averaged over pixels.

    With `on` and `off` the loss of a pixel inside and outside of the segment, the cost of a pair is
    sum(on * t + off * (1 - t)) = (on - off) @ t + sum(off), so one matrix product over pixels serves all
    pairs.
    """

    @configurable
    def __init__(self, weight: float = 20.0, mask_loss: str = "focal"):
        check_mask_loss(mask_loss)
        self.weight = weight
        self.mask_loss = mask_loss

    @classmethod
    def from_config(cls, cfg) -> dict:
        node = cfg.MODEL.MASK_FORMER
        return {"weight": node.MASK_WEIGHT, "mask_loss": node.MASK_LOSS}

    def sums(self, pixels: ComparedPixels) -> tuple[Tensor, Tensor]:
        logits = pixels.logits
        off = F.softplus(logits)
        if self.mask_loss == "focal":
            # on = alpha (1-p)^2 (softplus(x) - x), off = (1-alpha) p^2 softplus(x)
            probability = pixels.probability
            on = off.sub(logits).mul_(FOCAL_ALPHA).mul_((1 - probability).square_())
            off = off.mul_(1 - FOCAL_ALPHA).mul_(probability.square())
            difference = on.sub_(off)
        else:
            difference = -logits
        return difference @ pixels.membership, off.sum(-1, keepdim=True)

    def combine(self, sums: tuple[Tensor, ...], num_pixels: int) -> Tensor:
        difference, off = sums
        return (difference + off) / num_pixels


@MATCHING_COST_REGISTRY.register()
class DiceCost(PixelCost):
    """1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1)."""

    @configurable
    def __init__(self, weight: float = 1.0):
        self.weight = weight

    @classmethod
    def from_config(cls, cfg) -> dict:
        return {"weight": cfg.MODEL.MASK_FORMER.DICE_WEIGHT}

    def sums(self, pixels: ComparedPixels) -> tuple[Tensor, Tensor, Tensor]:
        probability, membership = pixels.probability, pixels.membership
        return probability @ membership, probability.sum(-1, keepdim=True), membership.sum(-2, keepdim=True)

    def combine(self, sums: tuple[Tensor, ...], num_pixels: int) -> Tensor:
        overlap, probability, area = sums
        return 1 - (2 * overlap + 1) / (probability + area + 1)
