"""Losses of masks: dice for every path, and the suppression of overlaps (sections 3.3 and 3.4 of the paper).

Shape shorthand: E sampled locations, G entities that they are responsible for, H W size of the masks.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from .aligned import aligned_upsample


def bank_losses(
    logits: Mapping[str, Tensor], weights: Mapping[str, float], masks: Tensor, factor: int
) -> dict:
    """Return the weighted dice loss of each path, as `loss_mask_bank_<path>`.

    Args:
        logits: {path: (E, h, w) float}.
        weights: {path: weight}.
        masks: (E, H, W) bool, the entity of each location.
        factor: H / h.
    """
    return {
        f"loss_mask_bank_{path}": weight
        * dice_losses(upsampled(logits[path], factor).sigmoid(), masks).mean()
        for path, weight in weights.items()
    }


def overlap_loss(logits: Tensor, groups: Tensor, images: Tensor, masks: Tensor, covered: Tensor, factor: int):
    """Return the mean dice loss of the entities after a softmax over the entities of each image.

    Args:
        logits: (E, h, w) float.
        groups: (E,) int64 in [0, G), the entity of each location; every entity has one.
        images: (G,) int64 ascending, the image of each entity.
        masks: (G, H, W) bool.
        covered: (N, H, W) bool, the pixels of an image's entities, with or without locations.
        factor: H / h.
    """
    maps = upsampled(mean_logits(logits, groups, len(images)), factor)
    losses = []
    for image in images.unique_consecutive().tolist():
        own = images == image
        probabilities = maps[own].softmax(0) * covered[image]
        losses.append(dice_losses(probabilities, masks[own]))
    return torch.cat(losses).mean()


def dice_losses(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Return 1 - dice coefficient of (G, H, W) probabilities and masks, with squares in the denominator."""
    first, second = probabilities.flatten(1), masks.flatten(1).to(probabilities.dtype)
    denominator = (first * first).sum(1) + second.sum(1) + 1e-5
    return 1 - 2 * (first * second).sum(1) / denominator


def mean_logits(logits: Tensor, groups: Tensor, count: int) -> Tensor:
    """Return the mean of the maps of each group: (E, h, w) float, (E,) int64 -> (count, h, w)."""
    sums = logits.new_zeros((count, *logits.shape[1:])).index_add(0, groups, logits)
    return sums / torch.bincount(groups, minlength=count)[:, None, None]


def upsampled(logits: Tensor, factor: int) -> Tensor:
    """Upsample (E, h, w) maps with `aligned_upsample`."""
    return aligned_upsample(logits[:, None], factor)[:, 0]
