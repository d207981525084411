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


def match(logits: Tensor, masks: Tensor, classes: Tensor, segments: Tensor, weights, mask_loss: str):
    """Pairs of one image: logits (Q, K+1), masks (Q, h, w), classes (S,), segments (S, H, W)."""
    with torch.no_grad():
        class_cost = -logits.softmax(-1)[:, classes]
        small = F.interpolate(segments[:, None], size=masks.shape[-2:], mode="nearest")[:, 0].flatten(1)
        x = masks.flatten(1)
        p = x.sigmoid()
        inside = F.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none")
        outside = F.binary_cross_entropy_with_logits(x, torch.zeros_like(x), reduction="none")
        if mask_loss == "focal":
            inside = ALPHA * (1 - p) ** GAMMA * inside
            outside = (1 - ALPHA) * p**GAMMA * outside
        mask_cost = (inside @ small.t() + outside @ (1 - small).t()) / x.shape[1]
        dice_cost = 1 - (2 * p @ small.t() + 1) / (p.sum(1)[:, None] + small.sum(1)[None] + 1)
        cost = weights[0] * class_cost + weights[1] * mask_cost + weights[2] * dice_cost
        return tuple(map(torch.as_tensor, linear_sum_assignment(cost.cpu())))


def mask_and_dice_loss(masks: Tensor, segments: Tensor, mask_loss: str) -> tuple[Tensor, Tensor]:
    """Sums over pairs of masks (S, h, w) and segments (S, H, W)."""
    x = F.interpolate(masks[:, None], size=segments.shape[-2:], mode="bilinear", align_corners=False)[
        :, 0
    ].flatten(1)
    t = segments.flatten(1)
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
) -> tuple[dict[str, Tensor], list]:
    """All losses, and the pairs of every layer and image.

    Args:
        outputs: as segzoo's criterion takes them.
        classes, segment_planes: per image (S,) and (S, H, W).
        weights: of the class, mask and dice terms, in the costs and in the losses.
    """
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
            arguments = (classes[image], planes_of_image, weights, mask_loss)
            queries, segments = match(logits[image], masks[image], *arguments)
            pairs.append((queries, segments))
            query_classes[image, queries] = classes[image][segments]
            if len(queries):
                mask, dice = mask_and_dice_loss(masks[image, queries], planes_of_image[segments], mask_loss)
                mask_sum, dice_sum = mask_sum + mask, dice_sum + dice
        class_weights = torch.ones(num_classes + 1, device=logits.device, dtype=logits.dtype)
        class_weights[-1] = no_object_weight
        losses[f"loss_ce{suffix}"] = weights[0] * F.cross_entropy(
            logits.transpose(1, 2), query_classes, class_weights
        )
        losses[f"loss_mask{suffix}"] = weights[1] * mask_sum / num_masks
        losses[f"loss_dice{suffix}"] = weights[2] * dice_sum / num_masks
    return losses, pairs
