"""Multi-scale deformable attention without an operator to compile (Zhu et al., Deformable DETR, section 4.1).

Every query reads a few points of every level at fractional positions, and adds up what it reads. On a CPU
each head's levels are a table with a row per pixel, and reading is a weighted sum of rows; nothing as large
as all rows that are read is ever in memory. Elsewhere `F.grid_sample` reads.

Letters: N images, Q queries, M heads, D channels of a head, L levels, P points of a level, S pixels of all
levels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear_layer import Linear

Sizes = Sequence[tuple[int, int]]

# Queries whose rows are scattered together in the backward pass: what they write stays in the cache.
_QUERIES_AT_ONCE = 256


class DeformableAttention(nn.Module):
    """Attention to learned points around a reference point, in the published parameter names."""

    def __init__(self, dim: int, num_heads: int = 8, num_levels: int = 3, num_points: int = 4):
        """
        Args:
            dim: channels, a multiple of num_heads.
            num_heads, num_levels, num_points: M, L, P.
        """
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = Linear(dim, samples * 2)
        self.attention_weights = Linear(dim, samples)
        self.value_proj = Linear(dim, dim)
        self.output_proj = Linear(dim, dim)
        self._initialise()

    def _initialise(self) -> None:
        """At first each head looks in a direction of its own, its points 1, 2, ... P pixels away."""
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2.0 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().max(-1, keepdim=True).values
        distances = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None] * distances[:, None]
        offsets = offsets.expand(-1, self.num_levels, -1, -1).flatten()
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, reference_points: Tensor, value: Tensor, sizes: Sizes) -> Tensor:
        """
        Args:
            query: (N, Q, C) float.
            reference_points: (N or 1, Q, L, 2) float, x and y in units of each level's width and height.
            value: (N, S, C) float, the levels one after the other, row by row.
            sizes: (height, width) of each level.

        Returns:
            (N, Q, C) float.
        """
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        offsets = self.sampling_offsets(query).unflatten(-1, (heads, levels, points, 2))
        weights = self.attention_weights(query).unflatten(-1, (heads, levels * points))
        weights = weights.float().softmax(-1).unflatten(-1, (levels, points))
        widths_heights = offsets.new_tensor([(width, height) for height, width in sizes])
        locations = reference_points[:, :, None, :, None] + offsets / widths_heights[:, None]
        value = self.value_proj(value).unflatten(-1, (heads, -1))
        return self.output_proj(sample_levels(value, sizes, locations, weights).to(query.dtype))


def sample_levels(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of what is read at the locations, bilinearly, with zeros outside the level.

    Args:
        value: (N, S, M, D) float.
        sizes: (height, width) of each level.
        locations: (N, Q, M, L, P, 2) float, x and y in units of the level's width and height.
        weights: (N, Q, M, L, P) float.

    Returns:
        (N, Q, M D) float32, or float64 if the value is.
    """
    dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    with torch.autocast(value.device.type, enabled=False):
        value, locations, weights = value.to(dtype), locations.to(dtype), weights.to(dtype)
        # Tracing wants operators that it knows.
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if value.device.type == "cpu" and not traced:
            return _SampleRows.apply(value, tuple(map(tuple, sizes)), locations, weights)
        return sample_levels_on_grids(value, sizes, locations, weights)


def sample_levels_on_grids(value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """`sample_levels`, by its definition: `F.grid_sample` on each level."""
    num_images, num_queries, num_heads = locations.shape[:3]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    read = []
    for level, part in enumerate(value.split([height * width for height, width in sizes], dim=1)):
        plane = part.permute(0, 2, 3, 1).reshape(num_images * num_heads, -1, *sizes[level])
        read.append(F.grid_sample(plane, grids[:, :, level], padding_mode="zeros", align_corners=False))
    weights = weights.transpose(1, 2).reshape(num_images * num_heads, 1, num_queries, -1)
    total = (torch.cat(read, dim=-1) * weights).sum(-1)
    return total.view(num_images, -1, num_queries).transpose(1, 2)


class _Corners:
    """The four pixels around each sample of one image and head.

    Attributes:
        rows: (4, Q, L P) int64 rows of the table; of a pixel outside its level some row inside.
        inside: (4, Q, L P) 1 where the pixel is inside its level, else 0.
        right, below: (Q, L P) distance from the upper left pixel, in [0, 1).
    """

    def __init__(self, locations: Tensor, sizes: Tensor, starts: Tensor):
        """locations: (Q, L, P, 2); sizes: (L, 1, 2) widths and heights; starts: (L, 1) first rows."""
        position = locations * sizes - 0.5
        upper_left = position.floor()
        right, below = (position - upper_left).unbind(-1)
        self.right, self.below = right.flatten(1), below.flatten(1)
        column, line = upper_left.long().unbind(-1)
        width, height = sizes.long().unbind(-1)
        columns = [column, column + 1]
        lines = [line, line + 1]
        column_is_inside = [(one >= 0) & (one < width) for one in columns]
        line_is_inside = [(one >= 0) & (one < height) for one in lines]
        columns = [one.clamp(min=0).minimum(width - 1) for one in columns]
        lines = [one.clamp(min=0).minimum(height - 1) * width + starts for one in lines]
        self.rows = torch.stack([(one + other).flatten(1) for one in lines for other in columns])
        self.inside = torch.stack(
            [(one & other).flatten(1) for one in line_is_inside for other in column_is_inside]
        ).to(locations.dtype)

    def shares(self) -> Tensor:
        """(4, Q, L P): of each pixel in the sample; 0 outside the level."""
        left, above = 1 - self.right, 1 - self.below
        shares = [left * above, self.right * above, left * self.below, self.right * self.below]
        return torch.stack(shares).mul_(self.inside)


def _by_query(corners: Tensor) -> Tensor:
    """(4, Q, L P) -> (Q, 4 L P)"""
    return corners.transpose(0, 1).flatten(1)


class _SampleRows(torch.autograd.Function):
    """`sample_levels` on a CPU: sums of table rows, image by image and head by head."""

    @staticmethod
    def forward(ctx, value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
        ctx.sizes = sizes
        ctx.save_for_backward(value, locations, weights)
        num_images, num_queries, num_heads = locations.shape[:3]
        result = value.new_empty(num_images, num_queries, num_heads, value.shape[-1])
        geometry = _geometry(sizes, value)
        for image in range(num_images):
            for head in range(num_heads):
                corners = _Corners(locations[image, :, head], *geometry)
                table = value[image, :, head].contiguous()
                shares = corners.shares().mul_(weights[image, :, head].flatten(1))
                result[image, :, head] = F.embedding_bag(
                    _by_query(corners.rows), table, per_sample_weights=_by_query(shares), mode="sum"
                )
        return result.flatten(2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        value, locations, weights = ctx.saved_tensors
        num_images, _, num_heads = locations.shape[:3]
        gradient = gradient.unflatten(-1, (num_heads, -1))
        to_value, to_locations = torch.empty_like(value), torch.empty_like(locations)
        to_weights = torch.empty_like(weights)
        sizes, starts = _geometry(ctx.sizes, value)
        for image in range(num_images):
            for head in range(num_heads):
                where = image, slice(None), head
                corners = _Corners(locations[where], sizes, starts)
                weight, outer = weights[where].flatten(1), gradient[where].contiguous()
                table = value[where].contiguous()
                products = _products(corners, table, outer)
                by_x, by_y, by_weight = _sample_gradients(corners, products)
                to_weights[where] = by_weight.view_as(weights[where])
                by_position = torch.stack([by_x * weight, by_y * weight], dim=-1)
                to_locations[where] = by_position.view_as(locations[where]) * sizes
                shares = _by_query(corners.shares().mul_(weight))
                to_value[where] = _scatter(_by_query(corners.rows), shares, outer, len(table))
        return to_value, None, to_locations, to_weights


def _geometry(sizes: Sizes, like: Tensor) -> tuple[Tensor, Tensor]:
    """(L, 1, 2) widths and heights, and (L, 1) first row of each level."""
    pixels = torch.tensor([0, *(height * width for height, width in sizes)], device=like.device)
    widths_heights = [[(width, height)] for height, width in sizes]
    return like.new_tensor(widths_heights), pixels.cumsum(0)[:-1, None]


def _products(corners: _Corners, table: Tensor, outer: Tensor) -> Tensor:
    """(4, Q, L P): the product of each pixel's row with the gradient of its query; 0 outside the level."""
    rows = _by_query(corners.rows)
    with torch.enable_grad():
        # The gradient of a weighted sum by its weights is what is wanted, and reads every row once.
        ones = outer.new_ones(rows.shape, requires_grad=True)
        total = F.embedding_bag(rows, table.detach(), per_sample_weights=ones, mode="sum")
        products = torch.autograd.grad(total, ones, outer)[0]
    return products.unflatten(1, (4, -1)).transpose(0, 1) * corners.inside


def _sample_gradients(corners: _Corners, products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(Q, L P) gradients of the bilinear sample: by x, by y in pixels, and the sample itself."""
    upper_left, upper_right, lower_left, lower_right = products
    upper, lower = upper_right - upper_left, lower_right - lower_left
    by_x = upper + corners.below * (lower - upper)
    first, second = upper_left + corners.right * upper, lower_left + corners.right * lower
    by_y = second - first
    return by_x, by_y, first + corners.below * by_y


def _scatter(rows: Tensor, shares: Tensor, outer: Tensor, num_rows: int) -> Tensor:
    """(S, D) gradient of the table, of (Q, 4 L P) rows and shares and (Q, D) gradients of the queries."""
    total = outer.new_zeros(num_rows, outer.shape[1])
    for start in range(0, len(rows), _QUERIES_AT_ONCE):
        part = slice(start, start + _QUERIES_AT_ONCE)
        written = shares[part, :, None] * outer[part, None]
        total.index_add_(0, rows[part].flatten(), written.flatten(0, 1))
    return total
