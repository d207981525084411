"""`SetCriterion` with memory for only a few masks, and several times as fast."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import configurable
from torch import Tensor

from ...losses import joined
from ...registry import CRITERION_REGISTRY
from .comparison import AllPixels, Comparison, UncertainPoints
from .decoder_outputs import DecoderOutputs
from .dense_loss import DenseLoss
from .flat_matches import FlatMatches
from .matched_layer import MatchedLayer
from .matched_masks import MaskLoss, MatchedMasks
from .matcher import HungarianMatcher
from .point_loss import PointLoss
from .point_sampling import RandomPoints
from .set_criterion import SetCriterion
from .target_batch import TargetBatch
from .terms import ClassTerm, DiceTerm, LossTerm, MaskTerm


@CRITERION_REGISTRY.register()
class FusedSetCriterion(SetCriterion):
    """Computes the losses and gradients of `SetCriterion`, those of matched masks a few masks at a time.

    `ClassTerm` (subclasses do not count) is computed for all layers at once.

    `MaskTerm` and `DiceTerm` are computed together, forward and backward in one pass, if both are among the
    terms (subclasses do not count) and masks are compared on `AllPixels` or `UncertainPoints`. All other
    terms are computed as in `SetCriterion`.

    Args:
        terms, matcher, comparison: see `SetCriterion`.
        chunk_elements: maximum number of pixels of resized masks, or of point coordinates, in memory at a
            time (at least one mask is); None: chosen by device.
    """

    @configurable
    def __init__(
        self,
        terms: Sequence[LossTerm],
        matcher: HungarianMatcher,
        comparison: Comparison | None = None,
        chunk_elements: int | None = None,
    ):
        super().__init__(terms=terms, matcher=matcher, comparison=comparison)
        self.chunk_elements = chunk_elements

    @property
    def fused_terms(self) -> tuple[MaskTerm, DiceTerm] | None:
        """The two terms that are computed together; None: all terms are computed as in `SetCriterion`."""
        mask, dice = (
            [term for term in self.terms.values() if type(term) is cls] for cls in (MaskTerm, DiceTerm)
        )
        if len(mask) == len(dice) == 1 and type(self.comparison) in (AllPixels, UncertainPoints):
            return mask[0], dice[0]
        return None

    def layer_losses(self, outputs: DecoderOutputs, layers: list[MatchedLayer]) -> list[dict[str, Tensor]]:
        """See `SetCriterion`."""
        targets = layers[0].targets
        matches = FlatMatches([layer.matches for layer in layers], targets, outputs.masks.num_queries)
        known: dict[LossTerm, Tensor] = {}  # each (L,)
        for term in self.terms.values():
            if type(term) is ClassTerm:
                logits = outputs.stacked_layers("pred_logits")
                known[term] = term.layer_losses(logits, matches, layers[0].counts)
        if fused := self.fused_terms:
            matched = MatchedMasks(outputs.masks, TargetBatch(targets), matches)
            loss = self._mask_loss(fused[0].mask_loss, outputs, layers[0].points)
            sums = matched.losses(loss, [term.weight for term in fused], layers[0].num_masks)
            known.update(zip(fused, sums, strict=True))
        values = {term: iter(of_layers.unbind()) for term, of_layers in known.items()}
        return [
            joined(
                {term.name: next(values[term])} if term in values else term(layer)
                for term in self.terms.values()
            )
            for layer in layers
        ]

    def _mask_loss(self, mask_loss: str, outputs: DecoderOutputs, points: RandomPoints) -> MaskLoss:
        # On a CPU a chunk stays in the cache; a GPU is faster with long vectors.
        chunk_elements = self.chunk_elements or (2**19 if outputs.device.type == "cpu" else 2**24)
        if isinstance(self.comparison, UncertainPoints):
            return PointLoss(mask_loss, self.comparison, chunk_elements, points)
        return DenseLoss(mask_loss, chunk_elements)
