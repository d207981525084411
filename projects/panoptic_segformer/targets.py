"""The ground truth of one image, separated into things and stuff.

Shape shorthand: G things and U stuff segments of an image, H W pixels of the padded image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segzoo.modeling.mask_classification.bilinear import resize_planes
from segzoo.modeling.mask_classification.criterion import SegmentTargets

from .boxes import centers

# Pixels of planes that are formed at a time.
_PIXELS = 2**24


@dataclass(frozen=True)
class ThingsAndStuff:
    """The segments of an image.

    Attributes:
        segments: all of them.
        things: (G,) int64, the indices in `segments` of the things.
        thing_classes: (G,) int64, their classes, counted among the thing classes.
        boxes: (G, 4) float, their edges in pixels: left, top, right, bottom.
        image_boxes: (G, 4) float, center x and y, width and height in units of the image's size.
        size: (4,) float, width, height, width, height of the image without padding.
        stuff: (U,) int64, the indices in `segments` of the stuff, at most one for each class.
        stuff_classes: (U,) int64, their classes, counted among the stuff classes.
        num_stuff: number of stuff segments, also of those whose class has another one.
    """

    segments: SegmentTargets
    things: Tensor
    thing_classes: Tensor
    boxes: Tensor
    image_boxes: Tensor
    size: Tensor
    stuff: Tensor
    stuff_classes: Tensor
    num_stuff: int

    def masks(self, segments: Tensor, size: tuple[int, int]) -> Tensor:
        """Return (M, *size) float32 in [0, 1]: masks of (M,) segments, resized bilinearly from (H, W)."""
        height, width = self.segments.size
        step = max(_PIXELS // (height * width), 1)
        parts = [
            resize_planes(self.segments.planes(part).float(), size)
            for part in segments.split(step)
            if len(part)
        ]
        return torch.cat(parts) if parts else self.boxes.new_zeros((0, *size))


def separate(
    segments: SegmentTargets, image_size: tuple[int, int], is_thing: Tensor, index: Tensor
) -> ThingsAndStuff:
    """Separate the segments of an image by class.

    Args:
        segments: with `extras["boxes"]` where there are thing classes.
        image_size: (height, width) of the image without padding.
        is_thing: (K,) bool.
        index: (K,) int64, the number of each class among the thing classes, or among the stuff classes.
    """
    thing = is_thing[segments.classes]
    things, stuff = thing.nonzero()[:, 0], (~thing).nonzero()[:, 0]
    stuff_classes = index[segments.classes[stuff]]
    # The mapper merges stuff of one class; of other data the last segment is the target, as published.
    is_last = ~(stuff_classes[:, None] == stuff_classes).triu(1).any(1)
    height, width = image_size
    size = torch.tensor([width, height, width, height], dtype=torch.float32, device=thing.device)
    boxes = segments.extras["boxes"][things].float() if is_thing.any() else size.new_zeros((0, 4))
    return ThingsAndStuff(
        segments=segments,
        things=things,
        thing_classes=index[segments.classes[things]],
        boxes=boxes,
        image_boxes=centers(boxes / size),
        size=size,
        stuff=stuff[is_last],
        stuff_classes=stuff_classes[is_last],
        num_stuff=len(stuff),
    )


def thing_and_stuff_indices(is_thing: Sequence[bool]) -> Tensor:
    """Return (K,) int64: the number of each class among the thing classes, or among the stuff classes."""
    flags = torch.tensor(tuple(is_thing), dtype=torch.bool)
    return torch.where(flags, flags.cumsum(0), (~flags).cumsum(0)) - 1
