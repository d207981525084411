"""Masks of the samples of a second stage, which share the planes of their objects.

Shape shorthand: G objects, R samples, H W pixels of the image, s side of a sample's mask.
"""

from typing import Any

import torch
from detectron2.layers import ROIAlign
from detectron2.structures import BitMasks
from torch import Tensor

#: Pixels of objects that are float numbers at a time, at least one object: 32 MiB.
PIXELS_AT_ONCE = 2**23


class SharedBitMasks(BitMasks):
    """Detectron2's BitMasks of samples, which are indices of the objects' planes.

    Detectron2 copies the mask of its object for each of the 512 samples of an image, and makes floats of
    those that are learned: 0.5 GiB each at 800 x 1333. Here indexing selects indices, and `crop_and_resize`
    makes floats of each object once, in groups of bounded memory, with equal results. Reading `tensor` copies
    the planes, (R, H, W) bool.
    """

    def __init__(self, planes: Tensor, index: Tensor | None = None):
        """
        Args:
            planes: (G, H, W) bool.
            index: (R,) int64, the object of each sample; None for the objects themselves.
        """
        self.planes = planes
        self.index = torch.arange(len(planes), device=planes.device) if index is None else index
        self.image_size = planes.shape[1:]

    @property
    def tensor(self) -> Tensor:
        return self.planes[self.index]

    @property
    def device(self) -> torch.device:
        return self.planes.device

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: Any) -> "SharedBitMasks":
        index = self.index[item]
        return SharedBitMasks(self.planes, index[None] if isinstance(item, int) else index)

    def to(self, *args: Any, **kwargs: Any) -> "SharedBitMasks":
        return SharedBitMasks(self.planes.to(*args, **kwargs), self.index.to(*args, **kwargs))

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Return the masks in boxes, (R, s, s) bool; see `BitMasks.crop_and_resize`."""
        align = ROIAlign((mask_size, mask_size), 1.0, 0, aligned=True)
        return pool_masks(self.planes, self.index, boxes.to(self.device), align) >= 0.5


def pool_masks(planes: Tensor, index: Tensor, boxes: Tensor, align: ROIAlign) -> Tensor:
    """Return masks pooled in boxes, (R, s, s) float.

    The planes become floats in groups of bounded memory, each once for all of its boxes.

    Args:
        planes: (G, H, W) bool.
        index: (R,) int64, the object of each box.
        boxes: (R, 4) x0, y0, x1, y1.
        align: pools them.
    """
    result = boxes.new_zeros((len(boxes), *align.output_size))
    count, height, width = planes.shape
    step = max(1, PIXELS_AT_ONCE // max(1, height * width))
    for start in range(0, count, step):
        chosen = ((index >= start) & (index < start + step)).nonzero()[:, 0]
        if len(chosen):
            group = planes[start : start + step, None].to(boxes.device, boxes.dtype)
            regions = torch.cat(((index[chosen] - start).to(boxes.dtype)[:, None], boxes[chosen]), 1)
            result[chosen] = align(group, regions)[:, 0]
    return result
