"""Deformable convolution as weighted sums of table rows and a matrix product, in bounded memory.

The table of an image has a row per pixel and deformable group, with a border of zeros, so that positions
outside need no special case. The output is computed in blocks of pixels: weighted sums of the four rows
around each position give a matrix of the values under the kernel, which is multiplied by the weight. Only the
inputs are kept for the backward pass.

Shape shorthand: as in `deform_conv`, and P output pixels of a block, R rows of the table.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .deformable_rows import add_rows, row_products
from .linear_layer import linear
from .runtime import without_autocast

# Number of values under the kernel (P T C) in a block: 4 MiB of float32, to stay in the cache.
VALUES_AT_A_TIME = 1 << 20


class Geometry(NamedTuple):
    """Stride, padding and dilation of a convolution, each (vertical, horizontal)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
        """Return (h, w) for an image of (H, W) pixels and a kernel of (height, width)."""
        height, width = (
            (side + 2 * padding - dilation * (extent - 1) - 1) // stride + 1
            for side, extent, stride, padding, dilation in zip(size, kernel, *self, strict=True)
        )
        return height, width

    def pixels(self, size: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
        """Return y (h,) and x (w,) of the first tap, for the lines and columns of the output."""
        lines, columns = (
            torch.arange(side, device=like.device).to(like.dtype) * stride - padding
            for side, stride, padding in zip(size, self.stride, self.padding, strict=True)
        )
        return lines, columns

    def taps(self, kernel: Sequence[int]) -> list[tuple[int, int]]:
        """Return (y, x) of each tap relative to the first one, line by line."""
        return [
            (line * self.dilation[0], column * self.dilation[1])
            for line in range(kernel[0])
            for column in range(kernel[1])
        ]


class ConvolveRows(torch.autograd.Function):
    """`segzoo.layers.deform_conv.deform_conv2d` for float32 or float64."""

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        offset: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mask: Tensor | None,
        geometry: Geometry,
    ) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(x, offset, weight, mask)
        positions = _Positions(x, offset, weight, geometry)
        matrices = _matrices(weight, positions.num_groups)
        result = x.new_empty(len(x), positions.num_pixels, len(weight))
        for image in range(len(x)):
            table = positions.table(x[image])
            for block in positions.blocks():
                samples = _Samples(positions, offset[image], None if mask is None else mask[image], block)
                values = positions.by_group(samples.values(table))
                result[image, block] = torch.cat(
                    [linear(part, matrix) for part, matrix in zip(values, matrices, strict=True)], dim=1
                )
        if bias is not None:
            result += bias
        return positions.as_map(result, x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, offset, weight, mask = ctx.saved_tensors
        needs_x, needs_offset, needs_weight, needs_bias, needs_mask, _ = ctx.needs_input_grad
        positions = _Positions(x, offset, weight, ctx.geometry)
        matrices = _matrices(weight, positions.num_groups)
        to_matrices = torch.zeros_like(matrices)
        to_x = torch.empty_like(x) if needs_x else None
        to_offset = torch.empty_like(offset, memory_format=torch.contiguous_format) if needs_offset else None
        to_mask = torch.empty_like(mask, memory_format=torch.contiguous_format) if needs_mask else None
        with without_autocast(x.device):
            for image in range(len(x)):
                table = positions.table(x[image])
                to_table = torch.zeros_like(table)
                outers = gradient[image].flatten(1).T.contiguous()
                for block in positions.blocks():
                    samples = _Samples(positions, offset[image], None if mask is None else mask[image], block)
                    outer = outers[block].chunk(len(matrices), dim=1)
                    if needs_weight:
                        values = positions.by_group(samples.values(table))
                        for group, (part, value) in enumerate(zip(outer, values, strict=True)):
                            to_matrices[group] += linear(part.T, value.T)
                    if not (needs_x or needs_offset or needs_mask):
                        continue
                    to_values = positions.from_groups(
                        [linear(part, matrix.T) for part, matrix in zip(outer, matrices, strict=True)]
                    )
                    if needs_x:
                        add_rows(to_table, samples.rows, samples.shares, to_values)
                    if needs_offset or needs_mask:
                        by_position, by_weight = samples.gradients(
                            row_products(samples.rows, table, to_values)
                        )
                        if needs_offset:
                            to_offset[image].flatten(1)[:, block] = by_position
                        if needs_mask:
                            to_mask[image].flatten(1)[:, block] = by_weight
                if needs_x:
                    to_x[image] = positions.pixels_of(to_table)
        to_weight = None
        if needs_weight:
            to_weight = to_matrices.unflatten(2, (-1, weight.shape[1])).transpose(2, 3).reshape(weight.shape)
        to_bias = gradient.sum((0, 2, 3)) if needs_bias else None
        return to_x, to_offset, to_weight, to_bias, to_mask, None


class _Positions:
    """The positions of the taps without offsets, and the layout of the table.

    A line of the table has a zero before and two after its pixels; one line of zeros is above, two below.

    Attributes:
        limits: (H, W).
        sizes: (T, D).
        num_groups: number of groups of the convolution.
        output_size, num_pixels: (h, w) and their product.
    """

    def __init__(self, x: Tensor, offset: Tensor, weight: Tensor, geometry: Geometry):
        self.limits = x.shape[2], x.shape[3]
        taps = weight.shape[2] * weight.shape[3]
        self.sizes = taps, offset.shape[1] // (2 * taps)
        self.num_groups = x.shape[1] // weight.shape[1]
        self.output_size = offset.shape[2:]
        self.num_pixels = offset.shape[2] * offset.shape[3]
        self._channels = x.shape[1]
        lines, columns = geometry.pixels(self.output_size, x)
        below, right = x.new_tensor(geometry.taps(weight.shape[2:])).T
        # (T, h) and (T, w)
        self._lines, self._columns = below[:, None] + lines, right[:, None] + columns

    def blocks(self) -> Iterator[slice]:
        """Yield the blocks of output pixels."""
        step = max(1, VALUES_AT_A_TIME // (self.sizes[0] * self._channels))
        for start in range(0, self.num_pixels, step):
            yield slice(start, min(start + step, self.num_pixels))

    def at(self, block: slice) -> tuple[Tensor, Tensor]:
        """Return y and x of the taps at a block of pixels, (T, P) each."""
        pixel = torch.arange(block.start, block.stop, device=self._lines.device)
        line = torch.div(pixel, self.output_size[1], rounding_mode="floor")
        return self._lines[:, line], self._columns[:, pixel - line * self.output_size[1]]

    def table(self, image: Tensor) -> Tensor:
        """Return the (R, C / D) table of an image (C, H, W)."""
        return F.pad(image.permute(1, 2, 0), (0, 0, 1, 2, 1, 2)).view(-1, self._channels // self.sizes[1])

    def pixels_of(self, table: Tensor) -> Tensor:
        """Return a view (C, H, W) of the pixels of a table."""
        height, width = self.limits
        lines = table.view(height + 3, width + 3, self._channels)
        return lines[1 : height + 1, 1 : width + 1].permute(2, 0, 1)

    def by_group(self, values: Tensor) -> list[Tensor]:
        """Split sampled values (P T D, C / D) into the groups of the convolution, (P, T C / groups) each."""
        values = values.view(-1, self.sizes[0], self._channels)
        return [part.flatten(1) for part in values.chunk(self.num_groups, dim=2)]

    def from_groups(self, parts: list[Tensor]) -> Tensor:
        """Undo `by_group`."""
        values = torch.cat([part.unflatten(1, (self.sizes[0], -1)) for part in parts], dim=2)
        return values.view(-1, self._channels // self.sizes[1])

    def as_map(self, result: Tensor, like: Tensor) -> Tensor:
        """Return results (N, h w, channels) as (N, channels, h, w) in the memory format of the image."""
        channels_last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
        layout = torch.channels_last if channels_last else torch.contiguous_format
        # A copy, because an autograd function must not return a view if the result may be modified in place.
        return result.unflatten(1, self.output_size).permute(0, 3, 1, 2).clone(memory_format=layout)


class _Samples:
    """The four pixels around each position of a block, for one image; positions are in the order P, T, D.

    Attributes:
        rows: (P T D, 4) int64 rows of the table.
        shares: (P T D, 4) weights of these rows, with the modulation.
    """

    def __init__(self, positions: _Positions, offset: Tensor, mask: Tensor | None, block: slice):
        """Compute the pixels from offsets (D T 2, h, w) and a mask (D T, h, w)."""
        taps, parts = positions.sizes
        height, width = positions.limits
        offset = offset.flatten(1)[:, block].unflatten(0, (parts, taps, 2)).permute(2, 3, 1, 0)
        requested = offset.clone(memory_format=torch.contiguous_format)  # (2, P, T, D)
        for coordinate, start in zip(requested, positions.at(block), strict=True):
            coordinate += start.T[..., None]
        # Positions farther outside read the border's zeros.
        limits = requested.new_tensor([height, width]).view(2, 1, 1, 1)
        position = requested.clamp(torch.full_like(limits, -1), limits)
        self._inside = torch.eq(requested, position, out=requested).flatten(1)
        line, column = upper_left = position.floor()
        self._below, self._right = position.sub_(upper_left).flatten(1)
        # A nan position reads some row with a nan weight.
        line, column = upper_left.nan_to_num_(0.0).long()
        pitch = width + 3
        first = ((line + 1) * pitch + column + 1) * parts + torch.arange(parts, device=line.device)
        steps = torch.tensor([0, parts, pitch * parts, (pitch + 1) * parts], device=line.device)
        self.rows = first.flatten()[:, None] + steps
        self._weight = None
        if mask is not None:
            mask = mask.flatten(1)[:, block].unflatten(0, (parts, taps))
            self._weight = mask.permute(2, 1, 0).flatten()
        self.shares = self._shares()
        self._shape = taps, parts

    def _shares(self) -> Tensor:
        lower = self._below if self._weight is None else self._weight * self._below
        upper = (1 if self._weight is None else self._weight) - lower
        lower_right, upper_right = lower * self._right, upper * self._right
        return torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], dim=1)

    def values(self, table: Tensor) -> Tensor:
        """Return the interpolated and modulated values at all positions, (P T D, C / D)."""
        return F.embedding_bag(self.rows, table, per_sample_weights=self.shares, mode="sum")

    def gradients(self, products: Tensor) -> tuple[Tensor, Tensor]:
        """Return gradients by the offsets, (D T 2, P), and by the mask, (D T, P).

        products: (4, 1, P T D), the gradient by each share.
        """
        upper_left, upper_right, lower_left, lower_right = products[:, 0]
        upper, lower = upper_right - upper_left, lower_right - lower_left
        by_x = upper + self._below * (lower - upper)
        first, second = upper_left + self._right * upper, lower_left + self._right * lower
        by_y = second - first
        by_weight = first + self._below * by_y
        by_position = torch.stack([by_y, by_x]).mul_(self._inside)
        if self._weight is not None:
            by_position *= self._weight
        by_position = by_position.unflatten(1, (-1, *self._shape)).permute(3, 2, 0, 1).flatten(0, 2)
        return by_position, by_weight.unflatten(0, (-1, *self._shape)).permute(2, 1, 0).flatten(0, 1)


def _matrices(weight: Tensor, groups: int) -> Tensor:
    """Return the weight as (groups, output channels / groups, T C / groups)."""
    return weight.unflatten(0, (groups, -1)).flatten(3).transpose(2, 3).flatten(2)
