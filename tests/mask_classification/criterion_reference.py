"""Criteria with the standard terms, and reference losses from the papers' definitions."""

import torch
import torch.nn.functional as F

from segzoo.modeling.mask_classification.criterion import (
    ClassCost,
    ClassTerm,
    DecoderOutputs,
    DiceCost,
    DiceTerm,
    FusedSetCriterion,
    HungarianMatcher,
    MaskCost,
    MaskTerm,
    RandomPoints,
    SetCriterion,
    UncertainPoints,
)


def make_matcher(weights, mask_loss="focal", num_points=0, **options):
    costs = [ClassCost(weights[0]), MaskCost(weights[1], mask_loss), DiceCost(weights[2])]
    return HungarianMatcher(costs, num_points, **options)


def make_criterion(
    weights=(2.0, 20.0, 3.0),
    mask_loss="focal",
    num_points=0,
    importance_sample_ratio=0.75,
    criterion_class=FusedSetCriterion,
    matcher=None,
    no_object_weight=0.1,
    **options,
):
    """Return a criterion with class, mask and dice terms for 5 classes."""
    comparison = UncertainPoints(num_points, 3.0, importance_sample_ratio) if num_points else None
    terms = [
        ClassTerm(5, weights[0], no_object_weight),
        MaskTerm(weights[1], mask_loss),
        DiceTerm(weights[2]),
    ]
    matcher = matcher or make_matcher(weights, mask_loss, num_points)
    return criterion_class(terms, matcher, comparison, **options)


def plain_criterion(mask_loss="focal", num_points=0, **options):
    """Return a `SetCriterion`, which uses plain autograd."""
    return make_criterion(mask_loss=mask_loss, num_points=num_points, criterion_class=SetCriterion, **options)


class OwnPoints(RandomPoints):
    """Points that are drawn separately for each mask, so that chunks do not matter."""

    def for_losses(self, start, stop, count, like):
        draw = super().for_losses
        return torch.cat([draw(row, row + 1, count, like) for row in range(start, stop)])


def mask_and_dice(x, t, mask_loss):
    """Return sums over masks of the losses of logits (M, P) against (M, P) truth, by definition."""
    p = x.sigmoid()
    p_t = p * t + (1 - p) * (1 - t)
    values = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    if mask_loss == "focal":
        values = values * (0.25 * t + 0.75 * (1 - t)) * (1 - p_t) ** 2
    dice = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    return values.mean(1).sum(), dice.sum()


class Reference:
    """Losses as the papers define them, one image and one layer at a time, for given matches.

    Args:
        weights: weights of the class, mask and dice losses.
        points: source of the points where masks are compared, with `num_points`; 0: all pixels.
    """

    def __init__(self, weights, mask_loss, num_points=0, points=None, no_object_weight=0.1):
        self.weights, self.mask_loss = weights, mask_loss
        self.num_points, self.points, self.no_object_weight = num_points, points, no_object_weight

    def __call__(self, outputs, classes, planes, pairs):
        """classes (S,) and planes (S, H, W) per image; pairs per layer and image."""
        layers = [*outputs.get("aux_outputs", []), outputs]
        losses = {}
        for index, layer in enumerate(layers):
            logits, masks = layer["pred_logits"], layer.get("pred_masks")
            if masks is None:
                masks = torch.einsum("nqc,nchw->nqhw", layer["mask_embed"], outputs["mask_features"])
            labels = torch.full(logits.shape[:2], logits.shape[-1] - 1)
            sums = [masks.sum() * 0, masks.sum() * 0]
            for image, (queries, segments) in enumerate(pairs[index]):
                labels[image, queries] = classes[image][segments]
                if len(queries):
                    # Matched masks are numbered image by image, those of an image layer by layer.
                    first = sum(len(own) for own, _ in pairs[index][:image]) * len(layers)
                    start = first + index * len(queries)
                    compared = self.compared(start, masks[image, queries], planes[image][segments])
                    sums = [
                        a + b for a, b in zip(sums, mask_and_dice(*compared, self.mask_loss), strict=True)
                    ]
            weights = logits.new_ones(logits.shape[-1])
            weights[-1] = self.no_object_weight
            suffix = "" if index == len(layers) - 1 else f"_{index}"
            number = max(sum(map(len, classes)), 1)
            losses[f"loss_ce{suffix}"] = self.weights[0] * F.cross_entropy(
                logits.transpose(1, 2), labels, weights
            )
            losses[f"loss_mask{suffix}"] = self.weights[1] * sums[0] / number
            losses[f"loss_dice{suffix}"] = self.weights[2] * sums[1] / number
        return losses

    def compared(self, start, masks, planes):
        """Return (M, P) logits and truth of matched masks (M, h, w) and planes (M, H, W)."""
        if not self.num_points:
            resized = F.interpolate(masks[:, None], planes.shape[-2:], mode="bilinear", align_corners=False)
            return resized[:, 0].flatten(1), planes.flatten(1)
        uncertain = int(0.75 * self.num_points)
        count = 4 * self.num_points - uncertain
        drawn = self.points.for_losses(start, start + len(masks), count, masks)
        candidates, others = drawn[:, : 3 * self.num_points], drawn[:, 3 * self.num_points :]
        order = (-self.sampled(masks, candidates).abs()).topk(uncertain, dim=1).indices
        points = torch.cat([candidates.gather(1, order[..., None].expand(-1, -1, 2)), others], 1)
        return self.sampled(masks, points), self.sampled(planes, points)

    @staticmethod
    def sampled(maps, points):
        return F.grid_sample(maps[:, None], 2 * points[:, None] - 1, align_corners=False)[:, 0, 0]


def reference_losses(scene, weights, mask_loss, matcher, num_points=0, seed=None, planes=None):
    """Return the reference losses of a scene with the matches of a plain matcher."""
    points = OwnPoints(seed) if num_points else RandomPoints(0)
    targets = scene.targets_as_planes() if planes is None else planes
    pairs = matcher(weights, mask_loss, num_points)(DecoderOutputs(scene.outputs), targets, points)
    reference = Reference(weights, mask_loss, num_points, points)
    masks = [target.masks.to(scene.features.dtype) for target in targets]
    return reference(scene.outputs, [target.classes for target in targets], masks, pairs)
