"""The loss of mask classification: match every decoder layer, then sum the terms (DETR §3.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from detectron2.config import configurable
from torch import Tensor, nn

from segzoo.layers.runtime import without_autocast

from ...losses import joined
from ...registry import CRITERION_REGISTRY
from .comparison import AllPixels, Comparison, build_comparison
from .decoder_outputs import DecoderOutputs
from .matched_layer import Counts, MatchedLayer, PendingCounts
from .matcher import HungarianMatcher, Matches, find_costs
from .point_sampling import RandomPoints
from .target_masks import SegmentTargets
from .terms import LossTerm, find_terms


@CRITERION_REGISTRY.register()
class SetCriterion(nn.Module):
    """Matches the queries of each layer with the segments and sums weighted terms, with plain autograd.

    Args:
        terms: losses of a layer by name, see `LossTerm`.
        matcher: pairs queries with segments; its weights are independent of the terms'.
        comparison: which pixels or points of masks are compared; None: all pixels.

    The standard terms have no parameters or buffers, so they add nothing to a checkpoint.
    """

    @configurable
    def __init__(
        self, terms: Sequence[LossTerm], matcher: HungarianMatcher, comparison: Comparison | None = None
    ):
        super().__init__()
        self.terms = nn.ModuleDict(_by_class(terms))
        self.matcher = matcher
        self.comparison = comparison or AllPixels()

    @classmethod
    def check_names(cls, cfg) -> None:
        """Check the names of terms and costs, see `Segmentor.check_names`."""
        find_terms(cfg)
        find_costs(cfg)

    @classmethod
    def from_config(cls, cfg) -> dict:
        return {
            "terms": [term(cfg) for term in find_terms(cfg)],
            "matcher": HungarianMatcher(cfg),
            "comparison": build_comparison(cfg),
        }

    def forward(
        self,
        outputs: Mapping,
        targets: Sequence[SegmentTargets],
        points: RandomPoints | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses in float32, even under autocast.

        Args:
            outputs: a dict with
                `pred_logits`: (N, Q, K+1) float class logits; the last is "no object";
                `pred_masks`: (N, Q, h, w) float mask logits, or instead their factors, `mask_embed` (N, Q, C)
                    and `mask_features` (N, C, h, w), from which only the needed masks are formed:
                    pred_masks = einsum("nqc,nchw->nqhw", mask_embed, mask_features);
                `aux_outputs`: optional, the same for the other layers, first layer first; in the factored
                    form each has `pred_logits` and `mask_embed`, and `mask_features` are those of the main
                    prediction;
                `exchanged`: optional, what `exchange` returned for these targets before the network;
                and any other output that terms or costs read, also in each of `aux_outputs`.
            targets: one for each of the N images, all of the padded input's size.
            points: source of the points where masks are compared, with `UncertainPoints`; None: random.

        Returns:
            weighted scalars: the losses of each term by name, such as `loss_ce`, `loss_mask`, `loss_dice`,
            and for auxiliary output i (0 is the first layer) the same names with `_i` appended.

        Raises:
            NonFiniteCostError: predictions hold NaN or infinity.
        """
        decoded = DecoderOutputs(outputs)
        points = points or self.new_points()
        with without_autocast(decoded.device):
            num_queries = decoded.masks.num_queries
            pending = outputs.get("exchanged")
            # A derived class may give other targets. Their numbers may agree on some processes only, so that
            # these do not tell whether to exchange again.
            if pending is None or pending.targets is not targets or pending.num_queries != num_queries:
                pending = self.exchange(targets, num_queries)
            matches = self.matcher(decoded, targets, points)
            if pending is None:
                matched = sum(len(queries) for queries, _ in matches[0])
                pending = PendingCounts(sum(map(len, targets)), matched, targets, num_queries)
            layers = self._matched_layers(decoded, targets, matches, points, pending.counts())
            losses = {}
            for layer, own in zip(layers, self.layer_losses(decoded, layers), strict=True):
                suffix = "" if layer.is_last else f"_{layer.index}"
                losses.update({f"{name}{suffix}": loss for name, loss in own.items()})
        return losses

    def exchange(self, targets: Sequence[SegmentTargets], num_queries: int) -> PendingCounts | None:
        """Start to exchange the counts, the same in all layers; `forward` does it if nobody did before.

        Returns:
            None for a matcher of another class, whose number of matches is known only after matching.
        """
        if type(self.matcher).forward is not HungarianMatcher.forward:
            return None
        counts = [len(target) for target in targets]
        matched = sum(min(count, num_queries) for count in counts)
        return PendingCounts(sum(counts), matched, targets, num_queries)

    def new_points(self) -> RandomPoints:
        """Return the source of the random points of one training step."""
        return RandomPoints()

    def layer_losses(self, outputs: DecoderOutputs, layers: list[MatchedLayer]) -> list[dict[str, Tensor]]:
        """Return the losses of all terms by name for each layer."""
        return [joined(term(layer) for term in self.terms.values()) for layer in layers]

    def _matched_layers(
        self,
        outputs: DecoderOutputs,
        targets: Sequence[SegmentTargets],
        matches: list[Matches],
        points: RandomPoints,
        counts: Counts,
    ) -> list[MatchedLayer]:
        return [
            MatchedLayer(
                outputs=layer,
                targets=targets,
                matches=own,
                counts=counts,
                index=index,
                num_layers=len(matches),
                dtype=outputs.dtype,
                comparison=self.comparison,
                points=points,
            )
            for index, (layer, own) in enumerate(zip(outputs.layers, matches, strict=True))
        ]


def _by_class(terms: Sequence[LossTerm]) -> dict[str, LossTerm]:
    """Return the terms by class name; from the second term of a class on, its number is appended."""
    named: dict[str, LossTerm] = {}
    seen: Counter[str] = Counter()
    for term in terms:
        name = type(term).__name__
        seen[name] += 1
        named[name if seen[name] == 1 else f"{name}_{seen[name]}"] = term
    return named
