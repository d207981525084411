"""Sampling for multi-scale deformable attention on a CPU: weighted sums of table rows, head by head.

A table has a row per pixel of all levels, and rows of zeros around each level, so that samples outside need
no special case. Values per sample are stored with the queries last, because long rows are fast. No tensor as
large as all sampled rows is ever in memory.

Shape shorthand: N images, Q queries, M heads, D channels of a head, L levels, P points of a level, S pixels
of all levels, R rows of the table.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Queries whose rows are scattered together in the backward pass, so that the written rows stay in the cache.
_QUERIES_AT_ONCE = 256


class SampleRows(torch.autograd.Function):
    """`segzoo.layers.deformable_attention.sample_levels` for float32 or float64."""

    @staticmethod
    def forward(
        ctx, value: Tensor, sizes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
    ) -> Tensor:
        ctx.sizes = sizes
        ctx.save_for_backward(value, locations, weights)
        num_images, num_queries, num_heads, _, num_points = weights.shape
        result = value.new_empty(num_images, num_queries, num_heads, value.shape[-1])
        table = _Table(sizes, num_points, value)
        for image in range(num_images):
            for head in range(num_heads):
                where = image, slice(None), head
                samples = _Samples(locations[where], table)
                shares = samples.shares(_queries_last(weights[where]))
                rows = table.filled(value[where])
                result[where] = F.embedding_bag(samples.rows, rows, per_sample_weights=shares, mode="sum")
        return result.flatten(2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        value, locations, weights = ctx.saved_tensors
        num_images, _, num_heads, _, num_points = weights.shape
        gradient = gradient.unflatten(-1, (num_heads, -1))
        to_value, to_locations = torch.empty_like(value), torch.empty_like(locations)
        to_weights = torch.empty_like(weights)
        table = _Table(ctx.sizes, num_points, value)
        for image in range(num_images):
            for head in range(num_heads):
                where = image, slice(None), head
                samples = _Samples(locations[where], table)
                weight, outer = _queries_last(weights[where]), gradient[where].contiguous()
                products = row_products(samples.rows, table.filled(value[where]), outer)
                by_position, by_weight = samples.gradients(products)
                to_weights[where] = by_weight.T.view_as(weights[where])
                by_location = by_position * (weight * table.size)
                to_locations[where] = by_location.permute(2, 1, 0).view_as(locations[where])
                scattered = torch.zeros_like(table.rows)
                add_rows(scattered, samples.rows, samples.shares(weight), outer)
                to_value[where] = torch.cat([level.flatten(0, 1) for level in table.levels(scattered)])
        return to_value, None, to_locations, to_weights


class _Table:
    """The layout of the levels in the table.

    A level has a line of zeros, its lines, and two lines of zeros; each line begins and ends with a zero.

    Attributes:
        rows: (R, D) the table, zero.
        size: (2, L P, 1) width and height of each sample's level.
        pitch, first: (L P, 1) distance of two lines, and row of the first pixel, for each sample's level.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], num_points: int, like: Tensor):
        self._sizes = sizes
        self._starts, layout, end = [], [], 0
        for height, width in sizes:
            pitch = width + 2
            self._starts.append(end)
            layout.append((width, height, pitch, end + pitch + 1))
            end += (height + 3) * pitch
        self.rows = like.new_zeros(end + 1, like.shape[-1])
        layout = like.new_tensor(layout).T.repeat_interleave(num_points, dim=1)[..., None]
        self.size, self.pitch, self.first = layout[:2], layout[2], layout[3]

    def levels(self, rows: Tensor) -> list[Tensor]:
        """Return views (h, w, D) of the levels in a table (R, D), this one or one like it."""
        views = []
        for start, (height, width) in zip(self._starts, self._sizes, strict=True):
            lines = rows[start : start + (height + 3) * (width + 2)].unflatten(0, (-1, width + 2))
            views.append(lines[1 : height + 1, 1 : width + 1])
        return views

    def filled(self, pixels: Tensor) -> Tensor:
        """Return the (R, D) table filled with the (S, D) pixels of one head."""
        parts = pixels.split([height * width for height, width in self._sizes])
        for level, part in zip(self.levels(self.rows), parts, strict=True):
            level.copy_(part.view_as(level))
        return self.rows


class _Samples:
    """The four pixels around each sample of one image and head.

    Attributes:
        rows: (Q, 4 L P) int64 rows of the table.
        inside: (2, L P, Q) float, 1 where x or y is at most one pixel outside the level, else 0.
        right, below: (L P, Q) distance from the upper left pixel, in [0, 1).
    """

    def __init__(self, locations: Tensor, table: _Table):
        """Compute the pixels around locations, (Q, L, P, 2)."""
        requested = locations.flatten(1, 2).permute(2, 1, 0).contiguous().mul_(table.size).sub_(0.5)
        # Samples farther outside read the border's zeros.
        position = requested.clamp(torch.full_like(table.size, -1), table.size)
        # As floats: comparisons that write bool are slow.
        self.inside = torch.eq(requested, position, out=requested)
        column, line = upper_left = position.floor()
        self.right, self.below = position.sub_(upper_left)
        # Floats hold these integers exactly. A nan location reads some row with a nan weight.
        row = line.mul_(table.pitch).add_(column).add_(table.first).nan_to_num_(0.0)
        below = row + table.pitch
        self.rows = _by_query([row, row + 1, below, below + 1]).long()

    def shares(self, weights: Tensor) -> Tensor:
        """Return the weight of each row in the sum of its query, (Q, 4 L P), given weights (L P, Q)."""
        lower = weights * self.below
        upper = weights - lower
        lower_right, upper_right = lower * self.right, upper * self.right
        return _by_query([upper - upper_right, upper_right, lower - lower_right, lower_right])

    def gradients(self, products: Tensor) -> tuple[Tensor, Tensor]:
        """Return gradients by x and y in pixels, (2, L P, Q), and by the attention weights, (L P, Q).

        products: (4, L P, Q), the gradient by each share.
        """
        upper_left, upper_right, lower_left, lower_right = products
        upper, lower = upper_right - upper_left, lower_right - lower_left
        by_x = upper + self.below * (lower - upper)
        first, second = upper_left + self.right * upper, lower_left + self.right * lower
        by_y = second - first
        return torch.stack([by_x, by_y]).mul_(self.inside), first + self.below * by_y


def _queries_last(numbers: Tensor) -> Tensor:
    """Reshape (Q, L, P) to (L P, Q)."""
    return numbers.flatten(1).T.contiguous()


def _by_query(corners: list[Tensor]) -> Tensor:
    """Join four (L P, Q) tensors to (Q, 4 L P)."""
    return torch.cat(corners).T.contiguous()


def row_products(rows: Tensor, table: Tensor, outer: Tensor) -> Tensor:
    """Return the product of each sampled row with the gradient of its query, (4, L P, Q).

    rows: (Q, 4 L P); table: (R, D); outer: (Q, D).
    """
    with torch.enable_grad():
        # The products are the gradient of a weighted sum by its weights, which reads every row once.
        ones = outer.new_ones(rows.shape, requires_grad=True)
        # torch 2.4 fails unless the table can have a gradient too; none is computed.
        table = table.detach().requires_grad_()
        total = F.embedding_bag(rows, table, per_sample_weights=ones, mode="sum")
        products = torch.autograd.grad(total, ones, outer)[0]
    return products.T.contiguous().unflatten(0, (4, -1))


def add_rows(total: Tensor, rows: Tensor, shares: Tensor, outer: Tensor) -> None:
    """Add the gradient of the table to `total`, (R, D).

    rows, shares: (Q, 4 L P); outer: (Q, D), the gradients of the queries.
    """
    for start in range(0, len(rows), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        written = shares[part, :, None] * outer[part, None]
        total.index_add_(0, rows[part].flatten(), written.flatten(0, 1))
