"""Matching and losses, forward and backward, against the plain `SetCriterion` with a plain matcher.

Shape shorthand: L layers, N images, Q queries, K classes, C channels.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

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
    SegmentTargets,
    SetCriterion,
    UncertainPoints,
)

from . import Case, Pair, scenes
from .straightforward_matcher import StraightforwardMatcher

NUM_IMAGES, NUM_QUERIES, NUM_CLASSES, CHANNELS = 2, 100, 133, 256
WEIGHTS = (1.0, 20.0, 1.0)
POINT_WEIGHTS, NUM_POINTS, NUM_LAYERS = (2.0, 5.0, 5.0), 12544, 10


def predictions(size: int, num_layers: int, factored: bool) -> tuple[dict, list[torch.Tensor]]:
    """Return outputs of a head whose masks have a quarter of the input's side, and their leaves.

    Args:
        factored: whether masks are given as embeddings and pixel features.
    """
    torch.manual_seed(0)
    features = torch.randn(NUM_IMAGES, CHANNELS, size // 4, size // 4) * 0.3
    layers = [
        {
            "pred_logits": torch.randn(NUM_IMAGES, NUM_QUERIES, NUM_CLASSES + 1),
            "mask_embed": torch.randn(NUM_IMAGES, NUM_QUERIES, CHANNELS),
        }
        for _ in range(num_layers)
    ]
    if not factored:
        for layer in layers:
            layer["pred_masks"] = torch.einsum("nqc,nchw->nqhw", layer.pop("mask_embed"), features)
    leaves = [tensor.requires_grad_() for layer in layers for tensor in layer.values()]
    outputs = {**layers[-1], "aux_outputs": layers[:-1]}
    if factored:
        outputs["mask_features"] = features.requires_grad_()
        leaves.append(features)
    return outputs, leaves


def segments(size: int, counts: tuple[int, ...]) -> list[SegmentTargets]:
    """Return targets of compact segments that cover each image; `counts`: number of segments per image."""
    rng = np.random.default_rng(0)
    targets = []
    for count in counts:
        segment_map = torch.from_numpy(scenes.regions(rng, size, size, count)).to(torch.int16)
        targets.append(SegmentTargets(torch.randint(0, NUM_CLASSES, (count,)), segment_map=segment_map))
    return targets


class OwnPoints(RandomPoints):
    """Points drawn for each mask separately, so that chunks and the order of images do not matter."""

    def for_losses(self, start, stop, count, like):
        points = [
            super(OwnPoints, self).for_losses(mask, mask + 1, count, like) for mask in range(start, stop)
        ]
        return torch.cat(points)


class GivenPoints(OwnPoints):
    """The points that the peer has chosen for its losses, (M, P, 2) for each layer and image."""

    def __init__(self, seed: int, chosen: list[torch.Tensor]):
        super().__init__(seed)
        self.chosen = chosen

    def for_losses(self, start, stop, count, like):
        of_images = [torch.cat(self.chosen[image::NUM_IMAGES]) for image in range(NUM_IMAGES)]
        return torch.cat(of_images)[start:stop]


@dataclass(frozen=True)
class RecordedPoints(UncertainPoints):
    """Uncertain points that are recorded, by layer and image."""

    chosen: list[torch.Tensor] = field(default_factory=list)

    def choose(self, logits, drawn):
        self.chosen.append(super().choose(logits, drawn))
        return self.chosen[-1]


def terms(weights: tuple[float, ...], mask_loss: str) -> list:
    class_weight, mask_weight, dice_weight = weights
    return [ClassTerm(NUM_CLASSES, class_weight), MaskTerm(mask_weight, mask_loss), DiceTerm(dice_weight)]


def fused(weights: tuple[float, ...], mask_loss: str, comparison: UncertainPoints | None = None):
    """Return the criterion as a configuration builds it."""
    class_weight, mask_weight, dice_weight = weights
    costs = [ClassCost(class_weight), MaskCost(mask_weight, mask_loss), DiceCost(dice_weight)]
    matcher = HungarianMatcher(costs, comparison.num_points if comparison else 0)
    return FusedSetCriterion(terms(weights, mask_loss), matcher, comparison)


def plain(weights: tuple[float, ...], mask_loss: str, comparison: UncertainPoints | None = None):
    """Return the peer."""
    matcher = StraightforwardMatcher(weights, mask_loss, comparison.num_points if comparison else 0)
    return SetCriterion(terms(weights, mask_loss), matcher, comparison)


def on_points(counts: tuple[int, ...], factored: bool) -> Pair:
    """Compare Mask2Former's criterion on two images of 1024x1024.

    The peer's points are drawn from the same seeds. Rounding may choose another of two equally uncertain
    points, so gradients are compared in a separate run, on the points that the peer has chosen.
    """
    outputs, leaves = predictions(1024, NUM_LAYERS, factored)
    targets = segments(1024, counts)
    criterion = fused(POINT_WEIGHTS, "bce", UncertainPoints(NUM_POINTS))

    def ours():
        return _with_gradients(criterion(outputs, targets, OwnPoints(seed=1)), leaves)

    def theirs():
        where = RecordedPoints(NUM_POINTS)
        peer = plain(POINT_WEIGHTS, "bce", where)
        return *_with_gradients(peer(outputs, targets, OwnPoints(seed=1)), leaves), peer.matcher, where.chosen

    def compare(result: tuple, expected: tuple) -> str:
        *expected, matcher, chosen = expected
        on_given = fused(POINT_WEIGHTS, "bce", UncertainPoints(NUM_POINTS, importance_sample_ratio=0.0))
        # Matching draws its points from the seed, independent of those of the losses.
        losses = on_given(outputs, targets, GivenPoints(1, chosen))
        same_points = _compare(_with_gradients(losses, leaves), expected)
        same, pairs = _same_pairs(criterion.matcher, matcher, outputs, targets)
        own_points = _largest_difference(result[1], expected[1])
        verdict = f"{same}/{pairs} assignments, {same_points} (own points {own_points:.0e})"
        return verdict if same == pairs else f"DIFFERENT: {verdict}"

    return Pair(ours, theirs, compare)


def _same_pairs(matcher, peer, outputs: dict, targets: list) -> tuple[int, int]:
    """Return the number of assignments, over layers and images, that are equal, and of all."""
    ours, theirs = (
        [pair for layer in one(DecoderOutputs(outputs), targets, OwnPoints(seed=1)) for pair in layer]
        for one in (matcher, peer)
    )
    same = sum(
        all(torch.equal(one, other) for one, other in zip(own, their, strict=True))
        for own, their in zip(ours, theirs, strict=True)
    )
    return same, len(theirs)


def dense(mask_loss: str, size: int, num_layers: int, num_segments: tuple[int, ...], factored: bool) -> Pair:
    """Compare MaskFormer's criterion: losses and gradients of all predictions."""
    outputs, leaves = predictions(size, num_layers, factored)
    targets = segments(size, num_segments)

    def side(criterion: SetCriterion):
        return lambda: _with_gradients(criterion(outputs, targets), leaves)

    return Pair(side(fused(WEIGHTS, mask_loss)), side(plain(WEIGHTS, mask_loss)), _compare)


def _with_gradients(losses: dict, leaves: list[torch.Tensor]) -> tuple[dict, tuple]:
    return losses, torch.autograd.grad(sum(losses.values()), leaves)


def _compare(ours: tuple, theirs: tuple) -> str:
    """Compare losses and gradients; a wrong assignment changes them by far more than rounding does."""
    losses = max(abs(ours[0][name].item() / value.item() - 1) for name, value in theirs[0].items())
    gradients = _largest_difference(ours[1], theirs[1])
    verdict = f"losses {losses:.1e}, gradients {gradients:.1e}"
    return verdict if losses < 1e-5 and gradients < 2e-6 else f"DIFFERENT: {verdict}"


def _largest_difference(ours: tuple, theirs: tuple) -> float:
    """Return the largest difference of a gradient, relative to the norm of the peer's."""
    return max(float((our - their).norm() / their.norm()) for our, their in zip(ours, theirs, strict=True))


CASES = [
    Case(
        "mask2former-1024",
        "matcher + criterion, forward + backward, 2 images of 1024x1024, 10 layers, from embeddings",
        lambda: on_points((12, 20), factored=True),
        peer="plain SetCriterion",
        goal=3.0,
        memory_goal=0.5,
        repeat=3,
        slow=True,
    ),
    Case(
        "mask2former-1024-masks",
        "matcher + criterion, forward + backward, 2 images of 1024x1024, 10 layers, from masks",
        lambda: on_points((12, 20), factored=False),
        peer="plain SetCriterion",
        repeat=3,
        slow=True,
        recorded=False,
    ),
    Case(
        "mask2former-1024-many",
        "matcher + criterion of 1024x1024, 10 layers, from embeddings, 300 and 8 segments",
        lambda: on_points((300, 8), factored=True),
        peer="plain SetCriterion",
        memory_goal=0.5,
        repeat=1,
        slow=True,
        recorded=False,
    ),
    Case(
        "maskformer-640",
        "matcher + criterion, forward + backward, 2 images of 640x640, 6 layers, focal, from embeddings",
        lambda: dense("focal", 640, 6, (12, 20), factored=True),
        peer="plain SetCriterion",
        goal=1.5,
        memory_goal=0.1,
        repeat=3,
        slow=True,
    ),
    Case(
        "maskformer-640-masks",
        "matcher + criterion, forward + backward, 2 images of 640x640, 6 layers, focal, from masks",
        lambda: dense("focal", 640, 6, (12, 20), factored=False),
        peer="plain SetCriterion",
        goal=1.5,
        repeat=3,
        recorded=False,
    ),
    Case(
        "bce-320",
        "binary cross-entropy on all pixels, 2 images of 320x320, 10 layers, from embeddings",
        lambda: dense("bce", 320, 10, (12, 20), factored=True),
        peer="plain SetCriterion",
        repeat=3,
        recorded=False,
    ),
]
