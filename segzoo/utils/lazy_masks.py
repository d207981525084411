"""Masks of instances that are drawn at full size group by group, when they are needed.

Shape shorthand: N masks, H W pixels of an image.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

#: Pixels at full size that are drawn at a time, at least one mask: 4 MiB, 3 masks of 800 x 1333. A CPU takes
#: as long for a mask in groups of any number.
PIXELS_AT_ONCE = 2**22
#: The same on another device, where all masks of most images at a time are fewer launches.
PIXELS_AT_ONCE_ON_DEVICE = 2**27


class LazyMasks:
    """N masks in a small form, such as masks inside boxes, and the function that draws them at full size.

    They are read like an (N, H, W) array: an integer index and iteration give (H, W) bool arrays, and
    `np.asarray` all of them. Slices, indices and flags select from the small form.
    """

    def __init__(self, draw: Callable[..., Tensor], size: Sequence[int], *parts: Tensor):
        """
        Args:
            draw: computes (n, H, W) bool masks from the parts of n of them and the size, on the device of the
                parts. A mask may not depend on the others. To be pickled it has to be a function of a module.
            size: (H, W).
            parts: tensors of N rows. The masks change with them: give copies of what may be modified.
        """
        self.draw = draw
        self.size = (int(size[0]), int(size[1]))
        self.parts = tuple(part.detach() for part in parts)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, H, W)"""
        return (len(self), *self.size)

    @property
    def nbytes(self) -> int:
        """Number of bytes of the small form."""
        return sum(part.nbytes for part in self.parts)

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, item: Any) -> Any:
        """Return one mask, (H, W) bool, for an integer, else `LazyMasks`."""
        if isinstance(item, int | np.integer):
            return next(iter(self[[int(item)]]))
        return LazyMasks(self.draw, self.size, *(part[item] for part in self.parts))

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the masks one by one, (H, W) bool, as views of the group that was drawn last."""
        for group in self.groups():
            yield from group.cpu().numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.tensor().cpu().numpy().astype(dtype or bool, copy=False)

    def to(self, *args: Any, **kwargs: Any) -> "LazyMasks":
        """Return the masks on another device, where they will be drawn."""
        return LazyMasks(self.draw, self.size, *(part.to(*args, **kwargs) for part in self.parts))

    def groups(self) -> Iterator[Tensor]:
        """Yield the masks in order, (n, H, W) bool, in groups of at most PIXELS_AT_ONCE pixels.

        On another device than the CPU the limit is PIXELS_AT_ONCE_ON_DEVICE.
        """
        most = PIXELS_AT_ONCE_ON_DEVICE if is_on_device(self) else PIXELS_AT_ONCE
        step = max(1, most // max(1, self.size[0] * self.size[1]))
        for start in range(0, len(self), step):
            yield self.draw(*(part[start : start + step] for part in self.parts), self.size)

    def tensor(self) -> Tensor:
        """Return all masks at full size, (N, H, W) bool."""
        return self.draw(*self.parts, self.size)

    @staticmethod
    def cat(masks: Sequence["LazyMasks"]) -> "LazyMasks | Tensor":
        """Return masks of one image together, as a tensor if they are not drawn by one function."""
        first = masks[0]
        if any((one.draw, one.size) != (first.draw, first.size) for one in masks):
            return torch.cat([one.tensor() for one in masks])
        parts = zip(*(one.parts for one in masks), strict=True)
        return LazyMasks(first.draw, first.size, *(torch.cat(part) for part in parts))

    def __repr__(self) -> str:
        return f"LazyMasks(shape={self.shape}, draw={getattr(self.draw, '__name__', self.draw)})"


def stored_masks(instances: Any) -> LazyMasks | Tensor | np.ndarray:
    """Return the field `pred_masks` of Detectron2's Instances as it is stored; nothing is drawn."""
    stored = getattr(type(instances), "stored", None)
    return instances.get("pred_masks") if stored is None else stored(instances, "pred_masks")


def is_on_device(masks: Any) -> TypeGuard[LazyMasks | Tensor]:
    """Return whether (N, H, W) masks are, or will be drawn, elsewhere than in the memory of the host."""
    if isinstance(masks, LazyMasks):
        return masks.parts[0].device.type != "cpu"
    if not isinstance(masks, Tensor) or masks.dim() != 3:
        return False
    return masks.device.type != "cpu"


def planes(
    masks: LazyMasks | Tensor | np.ndarray, order: Sequence[int] | np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Yield masks one by one, (H, W) bool, of an array at full size or drawn group by group.

    Args:
        masks: N masks; a tensor is on the CPU.
        order: indices of the masks to visit; None for all.
    """
    if isinstance(masks, LazyMasks):
        yield from masks if order is None else masks[np.array(order, np.int64)]
        return
    for index in range(len(masks)) if order is None else order:
        yield np.asarray(masks[int(index)]).astype(bool, copy=False)
