"""Matching and losses written plainly, one image and one layer at a time: the peer of `criterion.py`.

Every mask of every layer is formed, every segment is a plane of floats, and autograd keeps what it wants. The
tests compare segzoo's criterion with it.

Letters: N images, Q queries, K classes, S segments of an image, h w pixels of a mask, H W pixels of the
    target.
"""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

ALPHA, GAMMA = 0.25, 2


def all_layers(outputs: dict) -> list[dict]:
    """The layers of the outputs, first layer first, each with `pred_logits` and `pred_masks` (N, Q, h, w)."""
    layers = []
    for layer in [*outputs.get("aux_outputs", []), outputs]:
        masks = layer.get("pred_masks")
        if masks is None:
            masks = torch.einsum("nqc,nchw->nqhw", layer["mask_embed"], outputs["mask_features"])
        layers.append({"pred_logits": layer["pred_logits"], "pred_masks": masks})
    return layers


def planes(segment_map: Tensor, num_segments: int) -> Tensor:
    """(S, H, W) float planes of a segment map."""
    return torch.stack([segment_map == segment for segment in range(num_segments)]).float()


class AllPixels:
    """Compares masks on all pixels: of the predictions' resolution to match, of the targets' in the loss."""

    def to_match(self, image: int, layer: int, masks: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Masks (Q, h, w) and segments (S, H, W) to (Q, P) and (S, P)."""
        small = F.interpolate(segments[:, None], size=masks.shape[-2:], mode="nearest")
        return masks.flatten(1), small[:, 0].flatten(1)

    def to_compare(self, image: int, layer: int, masks: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Matched masks (M, h, w) and segments (M, H, W) to (M, P) each."""
        stretched = F.interpolate(
            masks[:, None], size=segments.shape[-2:], mode="bilinear", align_corners=False
        )
        return stretched[:, 0].flatten(1), segments.flatten(1)


class Points:
    """Compares masks on random points; in the loss three quarters are the most uncertain of candidates.

    Args:
        source: an object with segzoo's `RandomPoints.for_matching` and `for_losses`.
        num_points: P
        oversample, importance: candidates per point, and the share of points that is chosen of them.

    Attributes:
        chosen: {(image, layer): (M, P, 2)}, the points of the loss, as they were chosen last.
    """

    def __init__(self, source, num_points: int, oversample: float = 3.0, importance: float = 0.75):
        self.source, self.num_points = source, num_points
        self.candidates, self.uncertain = int(num_points * oversample), int(num_points * importance)
        self.chosen = {}

    def to_match(self, image: int, layer: int, masks: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        points = self.source.for_matching(image, layer, self.num_points, masks)[None]
        return (
            self._sample(masks, points.expand(len(masks), -1, -1)),
            self._sample(segments, points.expand(len(segments), -1, -1)),
        )

    def to_compare(self, image: int, layer: int, masks: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        start, count = layer * len(masks), self.candidates + self.num_points - self.uncertain
        with torch.no_grad():
            drawn = self.source.for_losses(image, start, start + len(masks), count, masks)
            candidates, others = drawn[:, : self.candidates], drawn[:, self.candidates :]
            uncertainty = -self._sample(masks, candidates).abs()
            order = uncertainty.topk(self.uncertain, dim=1).indices
            points = torch.cat([candidates.gather(1, order[..., None].expand(-1, -1, 2)), others], 1)
            truth = self._sample(segments, points)
        self.chosen[image, layer] = points
        return self._sample(masks, points), truth

    def _sample(self, planes: Tensor, points: Tensor) -> Tensor:
        """(M, h, w) at (M, P, 2)"""
        if len(planes) == 0:  # which grid_sample refuses
            return planes.new_zeros(points.shape[:2])
        return F.grid_sample(planes[:, None], 2 * points[:, None] - 1, align_corners=False)[:, 0, 0]


def match(logits: Tensor, x: Tensor, t: Tensor, classes: Tensor, weights, mask_loss: str):
    """Pairs of one image: logits (Q, K+1), mask logits (Q, P), segments (S, P), classes (S,)."""
    class_cost = -logits.softmax(-1)[:, classes]
    p = x.sigmoid()
    inside = F.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none")
    outside = F.binary_cross_entropy_with_logits(x, torch.zeros_like(x), reduction="none")
    if mask_loss == "focal":
        inside = ALPHA * (1 - p) ** GAMMA * inside
        outside = (1 - ALPHA) * p**GAMMA * outside
    mask_cost = (inside @ t.t() + outside @ (1 - t).t()) / x.shape[1]
    dice_cost = 1 - (2 * p @ t.t() + 1) / (p.sum(1)[:, None] + t.sum(1)[None] + 1)
    cost = weights[0] * class_cost + weights[1] * mask_cost + weights[2] * dice_cost
    return tuple(index.to(x.device) for index in map(torch.as_tensor, linear_sum_assignment(cost.cpu())))


def mask_and_dice_loss(x: Tensor, t: Tensor, mask_loss: str) -> tuple[Tensor, Tensor]:
    """Sums over pairs of mask logits (M, P) and segments (M, P)."""
    p = x.sigmoid()
    pixel_loss = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    if mask_loss == "focal":
        p_t = p * t + (1 - p) * (1 - t)
        pixel_loss = pixel_loss * (1 - p_t) ** GAMMA * (ALPHA * t + (1 - ALPHA) * (1 - t))
    dice = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    return pixel_loss.mean(1).sum(), dice.sum()


def criterion(
    outputs: dict,
    classes: list[Tensor],
    segment_planes: list[Tensor],
    weights,
    no_object_weight: float,
    mask_loss: str,
    where: AllPixels | Points | None = None,
) -> tuple[dict[str, Tensor], list]:
    """All losses, and the pairs of every layer and image.

    Args:
        outputs: as segzoo's criterion takes them.
        classes, segment_planes: per image (S,) and (S, H, W).
        weights: of the class, mask and dice terms, in the costs and in the losses.
        where: masks are compared; None: on all pixels.
    """
    where = where or AllPixels()
    layers = all_layers(outputs)
    num_masks = max(sum(map(len, classes)), 1)
    losses, pairs = {}, []
    for index, layer in enumerate(layers):
        suffix = "" if index == len(layers) - 1 else f"_{index}"
        logits, masks = layer["pred_logits"], layer["pred_masks"]
        num_classes = logits.shape[-1] - 1
        query_classes = torch.full(logits.shape[:2], num_classes, device=logits.device)
        mask_sum = dice_sum = masks.sum() * 0
        for image, planes_of_image in enumerate(segment_planes):
            with torch.no_grad():
                values = where.to_match(image, index, masks[image], planes_of_image)
                queries, segments = match(logits[image], *values, classes[image], weights, mask_loss)
            pairs.append((queries, segments))
            query_classes[image, queries] = classes[image][segments]
            if len(queries):
                matched = (masks[image, queries], planes_of_image[segments])
                mask, dice = mask_and_dice_loss(*where.to_compare(image, index, *matched), mask_loss)
                mask_sum, dice_sum = mask_sum + mask, dice_sum + dice
        class_weights = torch.ones(num_classes + 1, device=logits.device, dtype=logits.dtype)
        class_weights[-1] = no_object_weight
        losses[f"loss_ce{suffix}"] = weights[0] * F.cross_entropy(
            logits.transpose(1, 2), query_classes, class_weights
        )
        losses[f"loss_mask{suffix}"] = weights[1] * mask_sum / num_masks
        losses[f"loss_dice{suffix}"] = weights[2] * dice_sum / num_masks
    return losses, pairs
