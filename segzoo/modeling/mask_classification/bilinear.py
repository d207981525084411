"""Bilinear resizing (align_corners=False) by rows, and its transpose, with the weights of `F.interpolate`.

Resizing is separable: along each axis it is a product with a matrix that has two entries a row. Ranges of
rows of the result therefore need only a few rows of the source, and the gradient is a product with the
transposed matrices.

Shape shorthand: M planes, h w pixels of the source, H W pixels of the resized planes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

Resize = Callable[[Tensor], Tensor]

_BAND_ROWS = 8


def resize_planes(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (M, h, w) to (M, H, W) as `F.interpolate` does; return `planes` itself at the same size."""
    if planes.shape[-2:] == size:
        return planes
    return F.interpolate(planes[None], size=size, mode="bilinear", align_corners=False)[0]


def resize_matrix(source: int, target: int, like: Tensor) -> Tensor:
    """Return the (target, source) matrix that resizes a column, of the dtype and device of `like`."""
    unit_columns = torch.eye(source, dtype=like.dtype, device=like.device)
    return resize_planes(unit_columns[None], (target, source))[0]


def source_rows(start: int, stop: int, source: int, target: int) -> tuple[int, int]:
    """Return the range of source rows that target rows [start, stop) depend on, plus one row on each side."""
    scale = source / target
    first = int((start + 0.5) * scale - 0.5) - 1
    last = int((stop - 0.5) * scale - 0.5) + 3
    return max(first, 0), min(last, source)


def target_rows(start: int, stop: int, source: int, target: int) -> tuple[int, int]:
    """Return the range of target rows that source rows [start, stop) contribute to, plus one on each side."""
    scale = target / source
    first = int((start - 0.5) * scale - 0.5) - 1
    last = int((stop + 0.5) * scale - 0.5) + 3
    return max(first, 0), min(last, target)


def resize_transposed(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Apply the transpose of `resize_planes`, its gradient: (M, H, W) -> (M, h, w), h w = `size`.

    On a CPU this is several times faster than the backward pass of `F.interpolate`; it is always
    deterministic.
    """
    height, width = planes.shape[-2:]
    rows = resize_matrix(size[0], height, planes)
    columns = resize_matrix(size[1], width, planes)
    result = planes.new_empty((len(planes), size[0], width))
    # The matrix is a band: only the rows that contribute to a few neighboring results are multiplied. On a
    # GPU that would cost more kernels than it saves.
    band_rows = _BAND_ROWS if planes.device.type == "cpu" else size[0]
    for start in range(0, size[0], band_rows):
        stop = min(start + band_rows, size[0])
        first, last = target_rows(start, stop, size[0], height)
        result[:, start:stop] = rows[first:last, start:stop].t() @ planes[:, first:last]
    return result @ columns


class MaskResizer:
    """Resizes masks from the network's resolution to the original image's.

    1. resize to the padded input, 2. crop the padding, 3. resize to the output. A step that would change
    nothing is skipped; the result is bit-identical.

    Args:
        padded_size: (height, width) of the network's input.
        image_size: (height, width) of the image in its upper left corner.
        output_size: (height, width) of the result.
    """

    def __init__(
        self, padded_size: tuple[int, int], image_size: tuple[int, int], output_size: tuple[int, int]
    ):
        self.padded_size = tuple(map(int, padded_size))
        self.image_size = tuple(map(int, image_size))
        self.output_size = tuple(map(int, output_size))

    def __call__(self, masks: Tensor) -> Tensor:
        """Resize (M, h, w) float32 masks to (M, H, W), the output size."""
        return resize_planes(self.to_image(masks), self.output_size)

    def to_image(self, masks: Tensor) -> Tensor:
        """Resize (M, h, w) float32 masks to (M, height, width) of the image: steps 1 and 2."""
        return resize_planes(masks, self.padded_size)[:, : self.image_size[0], : self.image_size[1]]

    def weights(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Return the matrices (H, h) and (W, w), float32, of all steps: `rows @ mask @ columns.t()`."""
        matrices = []
        for axis, source in enumerate(masks.shape[-2:]):
            unit_columns = torch.eye(source, device=masks.device)[None]
            padded = resize_planes(unit_columns, (self.padded_size[axis], source))
            image = padded[:, : self.image_size[axis]]
            matrices.append(resize_planes(image, (self.output_size[axis], source))[0])
        return matrices[0], matrices[1]

    def source_range(self, start: int, stop: int, axis: int, source: int) -> tuple[int, int]:
        """Return the range of mask rows (axis 0) or columns (axis 1) that output [start, stop) depends on.

        source: number of mask rows or columns.
        """
        if self.image_size[axis] != self.output_size[axis]:
            start, stop = source_rows(start, stop, self.image_size[axis], self.output_size[axis])
        return source_rows(start, stop, source, self.padded_size[axis])

    def bands(self, masks: Tensor, rows: int, at_image_size=lambda planes: planes):
        """Yield (start, stop, planes (M', stop - start, W)): the output in bands of rows.

        Args:
            masks: (M, h, w) float32.
            rows: rows per band.
            at_image_size: applied between steps 2 and 3 to (M, r, width) rows; may change the number of
                planes.
        """
        for start, stop, planes, to_output in self.image_bands(masks, rows):
            yield start, stop, to_output(at_image_size(planes))

    def image_bands(self, masks: Tensor, rows: int) -> Iterator[tuple[int, int, Tensor, Resize]]:
        """Yield (start, stop, planes, to_output) for the bands of rows of the output.

        Args:
            masks: (M, h, w) float32.
            rows: rows per band.

        Yields:
            start, stop: the rows of the output.
            planes: (M, r, width) float32, the rows of the image that these depend on; a new tensor.
            to_output: step 3, a function from (M', r, width) to (M', stop - start, W).
        """
        source_height, padded_height = masks.shape[1], self.padded_size[0]
        image_height, output_height = self.image_size[0], self.output_size[0]
        to_padded = resize_matrix(source_height, padded_height, masks)
        to_output = resize_matrix(image_height, output_height, masks)
        for start in range(0, output_height, rows):
            stop = min(start + rows, output_height)
            top, bottom = source_rows(start, stop, image_height, output_height)
            if image_height == output_height:
                top, bottom = start, stop
            first, last = source_rows(top, bottom, source_height, padded_height)
            # Columns first, while there are fewer rows; then rows, in the order of `F.interpolate`.
            planes = resize_planes(masks[:, first:last], (last - first, self.padded_size[1]))
            planes = to_padded[top:bottom, first:last] @ planes[..., : self.image_size[1]]
            yield start, stop, planes, partial(self._to_output, to_output[start:stop, top:bottom])

    def _to_output(self, rows: Tensor, planes: Tensor) -> Tensor:
        """Resize (M, r, width) rows of the image; `rows` (R, r) has the weights of each result."""
        planes = resize_planes(planes, (planes.shape[1], self.output_size[1]))
        return planes if self.image_size[0] == self.output_size[0] else rows @ planes
