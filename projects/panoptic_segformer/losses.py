"""The losses of Panoptic SegFormer (section 3.5 of the paper, and its code where the paper is silent).

The names of the losses are those of the published code, without its losses of weight 0.

Shape shorthand: N images, Q queries, T thing classes, U stuff classes, D layers of the location decoder, M
matched pairs, h w size of a mask, K kept queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from fvcore.nn import sigmoid_focal_loss
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from segzoo.layers.resize import resize
from segzoo.layers.runtime import PendingMeans, without_autocast
from segzoo.modeling.mask_classification.criterion import costs_on_cpu

from .boxes import edges, generalized_iou
from .location_decoder import Locations
from .matching import ALPHA, GAMMA, dice_costs, filter_queries, location_costs
from .targets import ThingsAndStuff

_DICE_EPS = 1e-6
# The published code matches masks, and weighs stuff classes, with twice the weight of classes.
_CLASS_FACTOR = 2.0


@dataclass(frozen=True)
class ThingMatches:
    """The queries that match things.

    Attributes:
        layers: for each layer of the location decoder, for each image, (queries, things), int64.
        kept: for each image, (K,) int64, the queries whose masks are trained, ascending.
    """

    layers: list[list[tuple[Tensor, Tensor]]]
    kept: list[Tensor]


class PanopticSegFormerCriterion(nn.Module):
    """Matches queries with things, and computes the losses of things and stuff."""

    def __init__(
        self,
        *,
        class_weight: float = 2.0,
        box_weight: float = 5.0,
        iou_weight: float = 2.0,
        mask_weight: float = 2.0,
        filter_rounds: int = 1,
        stuff_class_images: str = "with_things",
    ):
        """
        Args:
            class_weight, box_weight, iou_weight, mask_weight: weights of losses and matching costs.
            filter_rounds: maximum number of matching rounds of the query filter, at least 1.
            stuff_class_images: images whose stuff classes are trained, those "with_things" or "all".
        """
        super().__init__()
        self.class_weight, self.box_weight, self.iou_weight = class_weight, box_weight, iou_weight
        self.mask_weight = mask_weight
        self.filter_rounds = filter_rounds
        self.stuff_class_images = stuff_class_images

    @torch.no_grad()
    def match(self, locations: Locations, targets: Sequence[ThingsAndStuff]) -> ThingMatches:
        """Match the queries of every layer of the location decoder with the things of each image.

        Raises:
            NonFiniteCostError: a cost is NaN or infinite.
        """
        with without_autocast(locations.logits.device):
            costs = [
                self._location_costs(
                    locations.logits[:, image].float(), locations.boxes[:, image].float(), target
                )
                for image, target in enumerate(targets)
            ]
        arrays = costs_on_cpu(costs)
        device = locations.logits.device
        layers = [
            [_on(device, *linear_sum_assignment(array[layer])) for array in arrays]
            for layer in range(len(locations.logits))
        ]
        kept = [_on(device, filter_queries(array[-1], self.filter_rounds))[0] for array in arrays]
        return ThingMatches(layers, kept)

    def forward(
        self,
        targets: Sequence[ThingsAndStuff],
        *,
        locations: Locations | None = None,
        matches: ThingMatches | None = None,
        thing_masks: Sequence[Tensor] = (),
        stuff_masks: Sequence[Tensor] = (),
        stuff_logits: Sequence[Tensor] = (),
        exchanged: PendingMeans | None = None,
    ) -> dict[str, Tensor]:
        """Return the weighted losses by name.

        Args:
            targets: of each image.
            locations, matches: the outputs of the location decoder, and of `match`; None without thing
                classes.
            thing_masks: of each layer and the tail, (N, max K, h, w) float, the kept queries first.
            stuff_masks: likewise (N, U, h, w) float; empty without stuff classes.
            stuff_logits: of each layer, (N, U) float.
            exchanged: what `exchange` returned for the targets before the network.
        """
        device = targets[0].size.device
        queries = 0 if locations is None else locations.hidden.shape[1]
        exchanged = exchanged or self.exchange(targets, queries)
        things, stuff = exchanged.values().clamp(min=1).unbind()
        share = things / (things + stuff)
        losses: dict[str, Tensor] = {}
        with without_autocast(device):
            if locations is not None and matches is not None:
                losses.update(self._location_losses(locations, matches, targets, share / things))
                pairs = self._match_masks(locations, matches, thing_masks[-1], targets)
                losses.update(self._mask_losses("things", thing_masks, pairs, targets, share / things))
            if len(stuff_masks):
                pairs = [(target.stuff_classes, target.stuff) for target in targets]
                losses.update(self._mask_losses("stuff", stuff_masks, pairs, targets, (1 - share) / stuff))
                losses.update(self._presence_losses(stuff_logits, targets, (1 - share) / stuff, queries > 0))
        return losses

    def exchange(self, targets: Sequence[ThingsAndStuff], num_queries: int) -> PendingMeans:
        """Start to exchange the numbers of things and stuff that losses are divided by."""
        num_things = sum(min(len(target.things), num_queries) for target in targets)
        num_stuff = sum(target.num_stuff for target in targets)
        return PendingMeans([num_things, num_stuff], targets[0].size.device)

    def _location_costs(self, logits: Tensor, boxes: Tensor, target: ThingsAndStuff, factor: float = 1.0):
        weights = (factor * self.class_weight, self.box_weight, self.iou_weight)
        return location_costs(logits, boxes, target, *weights)

    def _location_losses(
        self, locations: Locations, matches: ThingMatches, targets: Sequence[ThingsAndStuff], weight: Tensor
    ) -> dict[str, Tensor]:
        losses = {}
        last = len(matches.layers) - 1
        for index, pairs in enumerate(matches.layers):
            logits, boxes = locations.logits[index].float(), locations.boxes[index].float()
            one_hot = torch.zeros_like(logits)
            for image, ((queries, things), target) in enumerate(zip(pairs, targets, strict=True)):
                one_hot[image, queries, target.thing_classes[things]] = 1
            focal = sigmoid_focal_loss(logits, one_hot, alpha=ALPHA, gamma=GAMMA, reduction="sum")
            matched = [
                (boxes[image, queries], target.image_boxes[things], target.size.expand(len(things), -1))
                for image, ((queries, things), target) in enumerate(zip(pairs, targets, strict=True))
            ]
            found, true, sizes = map(torch.cat, zip(*matched, strict=True))
            ious = generalized_iou(edges(found) * sizes, edges(true) * sizes)
            prefix = "" if index == last else f"d{index}."
            losses[f"{prefix}loss_cls"] = self.class_weight * weight * focal
            losses[f"{prefix}loss_bbox"] = self.box_weight * weight * (found - true).abs().sum()
            losses[f"{prefix}loss_iou"] = self.iou_weight * weight * (1 - ious).sum()
        return losses

    @torch.no_grad()
    def _match_masks(
        self,
        locations: Locations,
        matches: ThingMatches,
        masks: Tensor,
        targets: Sequence[ThingsAndStuff],
    ) -> list[tuple[Tensor, Tensor]]:
        """Match the kept queries of each image with its things, by class, box and mask.

        Returns:
            for each image (positions among the kept queries, indices of segments), (M,) int64 each.
        """
        costs = []
        for image, (kept, target) in enumerate(zip(matches.kept, targets, strict=True)):
            logits, boxes = (
                locations.logits[-1, image, kept].float(),
                locations.boxes[-1, image, kept].float(),
            )
            cost = self._location_costs(logits, boxes, target, _CLASS_FACTOR)
            true = target.masks(target.things, tuple(masks.shape[-2:]))
            dice = dice_costs(masks[image, : len(kept)].float(), true)
            costs.append((cost + self.mask_weight * dice)[None])
        pairs = []
        for array, target in zip(costs_on_cpu(costs), targets, strict=True):
            positions, things = _on(masks.device, *linear_sum_assignment(array[0]))
            pairs.append((positions, target.things[things]))
        return pairs

    def _mask_losses(
        self,
        name: str,
        masks: Sequence[Tensor],
        pairs: Sequence[tuple[Tensor, Tensor]],
        targets: Sequence[ThingsAndStuff],
        weight: Tensor,
    ) -> dict[str, Tensor]:
        """Return the dice losses of each layer and the tail.

        Args:
            name: things or stuff.
            masks: (N, queries, h, w) float each.
            pairs: for each image the matched queries and segments.
            targets: of each image.
            weight: factor of all.
        """
        height, width = masks[0].shape[-2:]
        size = (2 * height, 2 * width)
        true = torch.cat(
            [target.masks(segments, size) for (_, segments), target in zip(pairs, targets, strict=True)]
        )
        images = torch.cat([torch.full_like(queries, image) for image, (queries, _) in enumerate(pairs)])
        queries = torch.cat([queries for queries, _ in pairs])
        squares = true.square().sum((1, 2))
        losses = {}
        for index, layer in enumerate(masks):
            # Masks along the batch, which may be empty.
            found = resize(layer[images, queries].float()[:, None], size, align_corners=False)[:, 0]
            overlaps = (found * true).sum((1, 2))
            dice = 1 - 2 * overlaps / (found.square().sum((1, 2)) + squares + 2 * _DICE_EPS)
            tail = index == len(masks) - 1
            losses[f"loss_mask_{name}" if tail else f"d{index}.loss_mask_{name}_f"] = (
                self.mask_weight * weight * dice.sum()
            )
        return losses

    def _presence_losses(
        self,
        logits: Sequence[Tensor],
        targets: Sequence[ThingsAndStuff],
        weight: Tensor,
        only_with_things: bool,
    ) -> dict[str, Tensor]:
        """Return the losses of the presence of stuff classes, (N, U) logits for each layer."""
        present = torch.zeros_like(logits[0], dtype=torch.float32)
        for image, target in enumerate(targets):
            present[image, target.stuff_classes] = 1
        trained = present.new_ones((len(targets), 1))
        if only_with_things and self.stuff_class_images == "with_things":
            trained = present.new_tensor([[float(len(target.things) > 0)] for target in targets])
        losses = {}
        for index, layer in enumerate(logits):
            focal = sigmoid_focal_loss(layer.float(), present, alpha=ALPHA, gamma=GAMMA)
            losses[f"d{index}.loss_cls_stuff_f"] = (
                _CLASS_FACTOR * self.class_weight * weight * (trained * focal).sum()
            )
        return losses


def _on(device: torch.device, *indices) -> tuple[Tensor, ...]:
    return tuple(torch.from_numpy(index).to(device) for index in indices)
