"""Post-processing written plainly, all masks at full size at once: the peer of `postprocess.py`.

The tests compare segzoo's post-processing with it.

Shape shorthand: Q queries, K classes, h w pixels of a mask, H W pixels of the output.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def full_size_masks(masks: Tensor, padded_size, image_size, output_size) -> Tensor:
    """Resize (Q, h, w) logits to (Q, H, W)."""
    masks = F.interpolate(masks[None], size=padded_size, mode="bilinear", align_corners=False)
    masks = masks[..., : image_size[0], : image_size[1]]
    return F.interpolate(masks, size=output_size, mode="bilinear", align_corners=False)[0]


def semantic_scores(logits: Tensor, masks: Tensor, padded_size, image_size, output_size, resize_scores=False):
    """Return (K, H, W) scores."""
    probabilities = logits.softmax(-1)[:, :-1]
    if not resize_scores:
        full = full_size_masks(masks, padded_size, image_size, output_size)
        return torch.einsum("qk,qhw->khw", probabilities, full.sigmoid())
    scores = torch.einsum(
        "qk,qhw->khw", probabilities, full_size_masks(masks, padded_size, image_size, image_size).sigmoid()
    )
    return F.interpolate(scores[None], size=output_size, mode="bilinear", align_corners=False)[0]


def panoptic(
    logits,
    masks,
    padded_size,
    image_size,
    output_size,
    is_thing,
    score_threshold,
    overlap,
    confident_only=False,
):
    """Return (H, W) int32 ids and a list of (id, class)."""
    full = full_size_masks(masks, padded_size, image_size, output_size).sigmoid()
    scores, classes = logits.softmax(-1).max(-1)
    keep = (classes != logits.shape[1] - 1) & (scores > score_threshold)
    scores, classes, full = scores[keep], classes[keep], full[keep]
    ids = torch.zeros(output_size, dtype=torch.int32)
    segments, stuff_ids = [], {}
    if len(scores) == 0:
        return ids, segments
    winner = (scores[:, None, None] * full).argmax(0)
    for query, category in enumerate(classes.tolist()):
        won, own = winner == query, full[query] >= 0.5
        painted = won & own if confident_only else won
        if not won.any() or not own.any() or not painted.any() or won.sum() / own.sum() < overlap:
            continue
        if category in stuff_ids:
            ids[painted] = stuff_ids[category]
            continue
        segments.append((len(segments) + 1, category))
        ids[painted] = len(segments)
        if not is_thing[category]:
            stuff_ids[category] = len(segments)
    return ids, segments


def instances(logits, masks, padded_size, image_size, output_size, max_instances):
    """Return (n, H, W) bool masks, (n,) scores and (n,) classes, by descending class score."""
    num_classes = logits.shape[1] - 1
    full = full_size_masks(masks, padded_size, image_size, output_size)
    scores, pairs = logits.softmax(-1)[:, :-1].flatten().topk(max_instances)
    full = full[pairs // num_classes]
    binary = full > 0
    quality = (full.sigmoid() * binary).flatten(1).sum(1) / (binary.flatten(1).sum(1) + 1e-6)
    return binary, scores * quality, pairs % num_classes
