"""Matching and losses, forward and backward, against the plain formulation of `straightforward_criterion`.

Letters: L layers, N images, Q queries, K classes, C channels.
"""

import numpy as np
import torch

from segzoo.modeling.mask_classification.criterion import SetCriterion
from segzoo.modeling.mask_classification.matcher import HungarianMatcher
from segzoo.modeling.mask_classification.targets import SegmentTargets

from . import Case, Pair, scenes, straightforward_criterion

NUM_IMAGES, NUM_QUERIES, NUM_CLASSES, CHANNELS = 2, 100, 133, 256
WEIGHTS = (1.0, 20.0, 1.0)


def dense(mask_loss: str, size: int, num_layers: int, num_segments: tuple[int, ...], factored: bool) -> Pair:
    """Losses and gradients of all predictions; masks have a quarter of the input's side.

    Args:
        factored: both are given embeddings and pixel features; otherwise both are given finished masks.
    """
    rng = np.random.default_rng(0)
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

    targets = []
    for count in num_segments:
        segment_map = torch.from_numpy(scenes.regions(rng, size, size, count)).to(torch.int16)
        targets.append(SegmentTargets(torch.randint(0, NUM_CLASSES, (count,)), segment_map=segment_map))
    criterion = SetCriterion(
        NUM_CLASSES, HungarianMatcher(*WEIGHTS, mask_loss), 0.1, *WEIGHTS, mask_loss=mask_loss
    )

    def ours():
        return _with_gradients(criterion(outputs, targets), leaves)

    def theirs():
        planes = [straightforward_criterion.planes(target.segment_map, len(target)) for target in targets]
        classes = [target.classes for target in targets]
        losses, _ = straightforward_criterion.criterion(outputs, classes, planes, WEIGHTS, 0.1, mask_loss)
        return _with_gradients(losses, leaves)

    return Pair(ours, theirs, _compare)


def _with_gradients(losses: dict, leaves: list[torch.Tensor]) -> tuple[dict, tuple]:
    return losses, torch.autograd.grad(sum(losses.values()), leaves)


def _compare(ours: tuple, theirs: tuple) -> str:
    """A wrong assignment would change losses and gradients by far more than rounding does."""
    losses = max(abs(ours[0][name].item() / value.item() - 1) for name, value in theirs[0].items())
    gradients = max(
        float((our - their).norm() / their.norm()) for our, their in zip(ours[1], theirs[1], strict=True)
    )
    verdict = f"losses {losses:.1e}, gradients {gradients:.1e}"
    return verdict if losses < 1e-5 and gradients < 2e-6 else f"DIFFERENT: {verdict}"


CASES = [
    Case(
        "maskformer-640",
        "matcher + criterion, forward + backward, 2 images of 640x640, 6 layers, focal, from embeddings",
        lambda: dense("focal", 640, 6, (12, 20), factored=True),
        goal=1.5,
        memory_goal=0.1,
        repeat=3,
    ),
    Case(
        "maskformer-640-masks",
        "the same from finished masks",
        lambda: dense("focal", 640, 6, (12, 20), factored=False),
        goal=1.5,
        repeat=3,
    ),
    Case(
        "bce-320",
        "binary cross-entropy on all pixels, 2 images of 320x320, 10 layers, from embeddings",
        lambda: dense("bce", 320, 10, (12, 20), factored=True),
        repeat=3,
    ),
]
