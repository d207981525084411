"""The valid part of the feature maps of a batch whose images have been padded to one size.

Images are in the upper left corner; padding is at the right and below.

Shape shorthand: N images, L levels, h w size of a level, S pixels of all levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


@dataclass(frozen=True)
class PaddedLevels:
    """The number of valid rows and columns of each level of each image.

    Attributes:
        sizes: (h, w) of the L levels.
        valid: (N, L, 2) int64, valid rows and columns, each at least 1.
    """

    sizes: tuple[Size, ...]
    valid: Tensor

    @classmethod
    def of_batch(
        cls,
        sizes: Sequence[Size],
        image_sizes: Sequence[Size],
        padded_size: Size,
        device: torch.device | str | None = None,
    ) -> "PaddedLevels | None":
        """Return the valid parts of the levels of a batch; None if no image is padded.

        A cell is valid if the pixel that resizing with the nearest neighbor takes for it is.

        Args:
            sizes: (h, w) of the levels.
            image_sizes: (height, width) of the images without padding.
            padded_size: (height, width) of the batch.
            device: device of the result.
        """
        if all(tuple(size) == tuple(padded_size) for size in image_sizes):
            return None
        counts = [
            [
                [
                    _valid_cells(cells, side, padded)
                    for cells, side, padded in zip(level, image, padded_size, strict=True)
                ]
                for level in sizes
            ]
            for image in image_sizes
        ]
        return cls(tuple(map(tuple, sizes)), torch.tensor(counts, dtype=torch.int64, device=device))

    @property
    def ratios(self) -> Tensor:
        """(N, L, 2) float32: the valid shares of the width and of the height."""
        sizes = torch.tensor(self.sizes, dtype=torch.float32, device=self.valid.device)
        return (self.valid / sizes).flip(-1)

    def of_pixels(self, values: Tensor) -> Tensor:
        """Return the value of each pixel's level: (N, L, ...) to (N, S, ...)."""
        areas = torch.tensor([height * width for height, width in self.sizes], device=values.device)
        return values.repeat_interleave(areas, dim=1)

    def padding(self) -> Tensor:
        """Return which pixels are padding, (N, S) bool, the levels one after the other, row by row."""
        parts = []
        for level, (height, width) in enumerate(self.sizes):
            rows = torch.arange(height, device=self.valid.device) >= self.valid[:, level, :1]
            columns = torch.arange(width, device=self.valid.device) >= self.valid[:, level, 1:]
            parts.append((rows[:, :, None] | columns[:, None, :]).flatten(1))
        return torch.cat(parts, dim=1)


def _valid_cells(cells: int, side: int, padded: int) -> int:
    """Return the number of `cells` along an axis for the first `side` of `padded` pixels, at least 1."""
    pixels = F.interpolate(torch.arange(float(padded))[None, None], size=cells, mode="nearest")
    return max(int((pixels < side).sum()), 1)
