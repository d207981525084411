"""Masks of detectors at the size of the image: pasted from boxes, or painted in the order of their scores.

The memory of segzoo does not include the result of pasting and painting, which is numpy's: 102 MiB of pasted
masks, of which only touched pages exist, or an int32 map of entities. Cases that encode masks count numpy's.

Shape shorthand: R masks, M side of a box's mask, h w size of an entity's mask.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.layers import paste_masks_in_image
from detectron2.structures import BitMasks
from torch import Tensor

from segzoo.evaluation.rle import encode_rle
from segzoo.modeling.detection import aligned_weights, paint_ranked, paste_masks
from segzoo.modeling.detection.shared_masks import SharedBitMasks
from segzoo.projects.mask_rcnn.gluon_paste import paste_in_pixels
from segzoo.utils.lazy_masks import LazyMasks, planes

from . import Case, Pair

NUM_MASKS = 100
SIZE = (800, 1333)


def smooth_masks(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Return smooth masks with sharp edges, (R, M, M)."""
    coarse = torch.randn(count, 1, 8, 8, generator=generator)
    return (12 * F.interpolate(coarse, (side, side), mode="bicubic")[:, 0]).sigmoid()


def boxed_masks(side: int) -> tuple[Tensor, Tensor]:
    """Return masks, (R, M, M), and boxes of 16 to 400 pixels, (R, 4)."""
    generator = torch.Generator().manual_seed(0)
    masks = smooth_masks(NUM_MASKS, side, generator)
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


def encoding(paste: Callable[[Tensor, Tensor, tuple[int, int]], Tensor], count: int, side: int) -> Pair:
    """Compare masks of wide boxes, pasted and encoded in groups, with pasting all of them first."""
    generator = torch.Generator().manual_seed(0)
    masks, limits = smooth_masks(count, side, generator), torch.tensor(SIZE[::-1])
    first = 0.15 * torch.rand(count, 2, generator=generator) * limits
    last = (1 - 0.15 * torch.rand(count, 2, generator=generator)) * limits
    boxes = torch.cat([first, last], dim=1)

    def ours() -> list[dict]:
        return [encode_rle(mask) for mask in planes(LazyMasks(paste, SIZE, masks, boxes))]

    def peer() -> list[dict]:
        return [encode_rle(mask) for mask in paste(masks, boxes, SIZE).numpy()]

    return Pair(ours, peer, list.__eq__)


def targets() -> Pair:
    """Compare the masks that 128 of 512 samples of an image with 7 objects learn with Detectron2's."""
    generator = torch.Generator().manual_seed(0)
    objects = F.interpolate(torch.rand(7, 1, 20, 20, generator=generator), SIZE, mode="bilinear")[:, 0] > 0.5
    index = torch.randint(0, len(objects), (512,), generator=generator)
    first = torch.rand(128, 2, generator=generator) * torch.tensor([900, 500])
    boxes = torch.cat([first, first + 20 + 280 * torch.rand(128, 2, generator=generator)], dim=1)

    def run(kind: type[BitMasks]) -> Tensor:
        return kind(objects)[index][: len(boxes)].crop_and_resize(boxes, 28)

    return Pair(lambda: run(SharedBitMasks), lambda: run(BitMasks), torch.equal)


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
        "encode-100-wide",
        "100 masks of 28x28 in wide boxes pasted into 800x1333 and encoded; peer: all are pasted first",
        lambda: encoding(paste_masks, 100, 28),
        memory="numpy",
        memory_goal=0.2,
        repeat=5,
    ),
    Case(
        "encode-1000-wide",
        "1000 masks of 14x14 in wide boxes, as GluonCV pastes them; peer: all are pasted first",
        lambda: encoding(paste_in_pixels, 1000, 14),
        memory="numpy",
        memory_goal=0.1,
        repeat=1,
        slow=True,
        recorded=False,
    ),
    Case(
        "targets-800x1333",
        "masks to learn of 512 samples in 800x1333, bitmask; peer: Detectron2's BitMasks",
        targets,
        goal=1.0,
        memory_goal=0.1,
        repeat=5,
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
        recorded=False,
    ),
]
