"""The true masks that predicted ones are compared with, at a fraction of the image's resolution.

Shape shorthand: N images, S segments of an image, G entities, H W size of the padded image.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from segzoo.modeling.mask_classification.criterion import SegmentTargets


def true_masks(targets: Sequence[SegmentTargets], entities: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Return the masks of some entities, and the pixels that any entity of an image covers.

    Masks are reduced by taking every `stride`-th pixel, from `stride` // 2.

    Args:
        targets: of N images.
        entities: (G, 2) int64 image and segment of each, images ascending.

    Returns:
        masks: (G, H / stride, W / stride) bool
        covered: (N, H / stride, W / stride) bool
    """
    masks, covered = [], []
    for image, target in enumerate(targets):
        reduced = _subsampled(target, stride)
        masks.append(reduced.planes(entities[entities[:, 0] == image, 1]))
        covered.append(_covered(reduced, have_area(target.extras["entity_boxes"])))
    return torch.cat(masks), torch.stack(covered)


def _subsampled(target: SegmentTargets, stride: int) -> SegmentTargets:
    start = stride // 2
    if target.masks is not None:
        return replace(target, masks=target.masks[:, start::stride, start::stride])
    return replace(target, segment_map=target.segment_map[start::stride, start::stride])


def _covered(target: SegmentTargets, kept: Tensor) -> Tensor:
    """Return the pixels of some segments: (S,) bool -> (H, W) bool."""
    if target.masks is not None:
        return target.masks[kept].any(0)
    # The last entry is that of index -1.
    return torch.cat((kept, kept.new_zeros(1)))[target.segment_map.long()]


def have_area(boxes: Tensor) -> Tensor:
    """Return which boxes, (S, 4), are more than one row and one column: (S,) bool."""
    return (boxes[:, 2:] - boxes[:, :2] > 1e-5).all(1)
