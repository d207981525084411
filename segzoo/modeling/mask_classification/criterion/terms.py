"""Terms of the loss of mask classification (MaskFormer §3.3-3.4, Mask2Former §3.3, DETR §3.1).

To add a term, derive it from `LossTerm` and register it by name:

    @LOSS_TERM_REGISTRY.register()
    class BoxTerm(LossTerm):
        @configurable
        def __init__(self, weight: float = 5.0): ...

        def forward(self, layer):
            boxes = layer.matched(layer.outputs["pred_boxes"])
            distances = (boxes - layer.matched_extra("boxes")).abs()
            return {"loss_bbox": self.weight * distances.sum() / layer.num_masks}

and list it in MODEL.MASK_FORMER.LOSS_TERMS ("ClassTerm", "MaskTerm", "DiceTerm", "BoxTerm").

Shape shorthand: L layers, N images, Q queries, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from torch import Tensor, nn

from ...registry import LOSS_TERM_REGISTRY, registered
from .flat_matches import FlatMatches
from .matched_layer import Counts, MatchedLayer
from .pixel_losses import check_mask_loss, dice_losses, mask_losses


class LossTerm(nn.Module):
    """Base class of loss terms.

    Parameters of a term are trained and stored in checkpoints as `criterion.terms.<class>.<name>`.
    Predictions do not depend on them: a checkpoint without them, or with those of other terms, can be
    evaluated and fine-tuned; only resuming a run needs the same terms.
    """

    def forward(self, layer: MatchedLayer) -> dict[str, Tensor]:
        """Return the weighted scalar losses of one decoder layer by name.

        The criterion calls it for every layer and appends `_<i>` to the names for all but the last. Return an
        empty dict for a layer without these losses; 0 is recorded. Autocast is off.
        """
        raise NotImplementedError


def find_terms(cfg) -> list[Callable[..., LossTerm]]:
    """Return the term classes that MODEL.MASK_FORMER.LOSS_TERMS names; each is built with `cfg`."""
    key = "MODEL.MASK_FORMER.LOSS_TERMS"
    return [registered(LOSS_TERM_REGISTRY, key, name) for name in cfg.MODEL.MASK_FORMER.LOSS_TERMS]


@LOSS_TERM_REGISTRY.register()
class ClassTerm(LossTerm):
    """`loss_ce`: cross-entropy of all queries; queries without a segment should predict "no object"."""

    name = "loss_ce"

    @configurable
    def __init__(self, num_classes: int, weight: float = 1.0, no_object_weight: float = 0.1):
        """
        Args:
            num_classes: K, without "no object", which is index K of the class logits.
            weight: factor of the loss.
            no_object_weight: weight of queries without a segment in the cross-entropy, a weighted mean.
        """
        super().__init__()
        self.num_classes = num_classes
        self.weight = weight
        self.no_object_weight = no_object_weight

    @classmethod
    def from_config(cls, cfg) -> dict:
        node = cfg.MODEL.MASK_FORMER
        return {
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "weight": node.CLASS_WEIGHT,
            "no_object_weight": node.NO_OBJECT_WEIGHT,
        }

    def forward(self, layer: MatchedLayer) -> dict[str, Tensor]:
        matches = FlatMatches([layer.matches], layer.targets, layer.logits.shape[1])
        return {self.name: self.layer_losses(layer.logits[:, None], matches, layer.counts)[0]}

    def layer_losses(self, logits: Tensor, matches: FlatMatches, counts: Counts) -> Tensor:
        """Return the losses of all layers, (L,), computed together.

        Args:
            logits: (N, L, Q, K + 1) class logits.
            matches: of the L layers.
            counts: divisors, the same for all layers.
        """
        classes = torch.full(logits.shape[:3], self.num_classes, dtype=torch.int64, device=logits.device)
        classes.view(-1).scatter_(0, matches.query_indices(), matches.classes())
        weights = logits.new_ones(self.num_classes + 1)
        weights[-1] = self.no_object_weight
        # As a matrix: CUDA's sum over maps of logits is not deterministic.
        losses = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), weights, reduction="none")
        total_weight = counts.matched + self.no_object_weight * counts.unmatched
        # The weight is 0 without segments if no_object_weight is 0: the loss is 0, not 0 / 0.
        return self.weight * losses.view(classes.shape).sum((0, 2)) / total_weight.clamp(min=1e-12)


@LOSS_TERM_REGISTRY.register()
class MaskTerm(LossTerm):
    """`loss_mask`: focal loss or binary cross-entropy of matched masks, averaged over pixels."""

    name = "loss_mask"

    @configurable
    def __init__(self, weight: float = 20.0, mask_loss: str = "focal"):
        """
        Args:
            weight: factor of the loss.
            mask_loss: "focal" (sigmoid focal loss, alpha 0.25, gamma 2) or "bce".
        """
        super().__init__()
        check_mask_loss(mask_loss)
        self.weight = weight
        self.mask_loss = mask_loss

    @classmethod
    def from_config(cls, cfg) -> dict:
        node = cfg.MODEL.MASK_FORMER
        return {"weight": node.MASK_WEIGHT, "mask_loss": node.MASK_LOSS}

    def forward(self, layer: MatchedLayer) -> dict[str, Tensor]:
        losses = mask_losses(layer.compared, self.mask_loss)
        return {self.name: self.weight * losses.sum() / layer.num_masks}


@LOSS_TERM_REGISTRY.register()
class DiceTerm(LossTerm):
    """`loss_dice`: dice loss of matched masks."""

    name = "loss_dice"

    @configurable
    def __init__(self, weight: float = 1.0):
        """weight: factor of the loss."""
        super().__init__()
        self.weight = weight

    @classmethod
    def from_config(cls, cfg) -> dict:
        return {"weight": cfg.MODEL.MASK_FORMER.DICE_WEIGHT}

    def forward(self, layer: MatchedLayer) -> dict[str, Tensor]:
        losses = dice_losses(layer.compared)
        return {self.name: self.weight * losses.sum() / layer.num_masks}
