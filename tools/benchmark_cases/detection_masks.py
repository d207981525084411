"""Masks of detectors at the size of the image: pasted from boxes, or painted in the order of their scores.

The memory of segzoo does not include the result, which is numpy's: 102 MiB of pasted masks, of which only
touched pages exist, or an int32 map of entities.

Shape shorthand: R masks, M side of a box's mask, h w size of an entity's mask.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.layers import paste_masks_in_image
from torch import Tensor

from segzoo.modeling.detection import aligned_weights, paint_ranked, paste_masks

from . import Case, Pair

NUM_MASKS = 100
SIZE = (800, 1333)


def boxed_masks(side: int) -> tuple[Tensor, Tensor]:
    """Return smooth masks with sharp edges, (R, M, M), and boxes of 16 to 400 pixels, (R, 4)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(NUM_MASKS, 1, 8, 8, generator=generator)
    masks = (12 * F.interpolate(coarse, (side, side), mode="bicubic")[:, 0]).sigmoid()
    height, width = SIZE
    center = torch.rand(NUM_MASKS, 2, generator=generator) * torch.tensor([width, height])
    extent = 16 * torch.exp(3.2 * torch.rand(NUM_MASKS, 2, generator=generator))
    boxes = torch.cat([center - extent / 2, center + extent / 2], dim=1)
    return masks, boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))


def sampled_everywhere(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Sample every mask at every pixel of the image, all at once."""
    height, width = size
    first, last = boxes[:, None, :2], boxes[:, None, 2:]
    x = (torch.arange(width) + 0.5 - first[..., 0]) / (last - first)[..., 0] * 2 - 1
    y = (torch.arange(height) + 0.5 - first[..., 1]) / (last - first)[..., 1] * 2 - 1
    grid = torch.stack((x[:, None].expand(-1, height, width), y[:, :, None].expand(-1, height, width)), dim=3)
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0] >= 0.5


def pasting(side: int, peer: Callable[[Tensor, Tensor, tuple[int, int]], Tensor]) -> Pair:
    masks, boxes = boxed_masks(side)
    return Pair(lambda: paste_masks(masks, boxes, SIZE), lambda: peer(masks, boxes, SIZE), torch.equal)


def entity_masks(height: int, width: int) -> Tensor:
    """Return probabilities, (R, h, w), of uneven ellipses with diameters of 10 to 90 pixels."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    center = (
        torch.rand(NUM_MASKS, 2, 1, 1, generator=generator) * torch.tensor([height, width])[:, None, None]
    )
    radius = 5 * torch.exp(2.2 * torch.rand(NUM_MASKS, 2, 1, 1, generator=generator))
    distance = ((y - center[:, 0]) / radius[:, 0]) ** 2 + ((x - center[:, 1]) / radius[:, 1]) ** 2
    uneven = torch.randn(NUM_MASKS, 1, 12, 16, generator=generator)
    return (2.5 * (1 - distance) + F.interpolate(uneven, (height, width), mode="bicubic")[:, 0]).sigmoid()


def resized(masks: Tensor, image: tuple[int, int], output: tuple[int, int]) -> Tensor:
    """Upsample (R, h, w) by 4 with pixels kept at their positions, crop to the image, and resize."""
    height, width = masks.shape[1:]
    masks = F.pad(masks[:, None], (0, 1, 0, 1), mode="replicate")
    masks = F.interpolate(masks, (4 * height + 1, 4 * width + 1), mode="bilinear", align_corners=True)
    masks = F.pad(masks, (2, 0, 2, 0), mode="replicate")[..., : image[0], : image[1]]
    return F.interpolate(masks, output, mode="bilinear", align_corners=False)[:, 0]


def painting(output: tuple[int, int]) -> Pair:
    masks = entity_masks(200, 336)

    def ours() -> Tensor:
        axes = [aligned_weights(masks.shape[axis + 1], 4, SIZE[axis], output[axis]) for axis in (0, 1)]
        return paint_ranked(masks, *axes, lambda mask: resized(mask[None], SIZE, output)[0]).labels

    def peer() -> Tensor:
        inside = resized(masks, SIZE, output) > 0.5
        return torch.where(inside.any(0), inside.byte().argmax(0) + 1, 0).int()

    return Pair(ours, peer, torch.equal)


CASES = [
    Case(
        "paste-28-everywhere",
        "100 masks of 28x28 pasted into 800x1333; peer: every mask sampled at every pixel",
        lambda: pasting(28, sampled_everywhere),
        goal=8.0,
        memory_goal=0.1,
        repeat=3,
    ),
    Case(
        "paste-28-detectron2",
        "100 masks of 28x28 pasted into 800x1333; peer: Detectron2's paste_masks_in_image, box by box",
        lambda: pasting(28, paste_masks_in_image),
    ),
    Case(
        "paint-800x1333",
        "100 entities painted into 800x1333 by rank; peer: all masks at full size",
        lambda: painting(SIZE),
        goal=8.0,
        memory_goal=0.1,
        repeat=3,
    ),
    Case(
        "paint-480x800",
        "100 entities of an image of 800x1333 painted into 480x800 by rank; peer: all masks at full size",
        lambda: painting((480, 800)),
        goal=8.0,
        memory_goal=0.1,
        repeat=3,
    ),
]
