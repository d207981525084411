"""Triton kernels of multi-scale deformable attention: a program for each block of queries, head and image.

Positions are computed once per query, and a row of the head's D channels is read or written at a time. Sums
are in single precision, or double if the locations are. This module is only imported to run the kernels.

Shape shorthand as in `deformable_sampling`.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

# The first version that supports tuples.
if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
    raise ImportError(f"Triton {triton.__version__} is too old, 3.3 is needed")

# Queries per program, and warps per program. With 32 channels in single precision a thread reads 16 bytes of
# two rows at a time. The backward kernel uses one warp, so that sums over channels need no barrier.
_SAMPLE_SHAPE = (32, 4)
_GRADIENTS_SHAPE = (8, 1)


def sample(
    value: Tensor, heights: Sequence[int], widths: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sample all levels with a Triton kernel.

    Args:
        value: (N, S, M, D) float, of any precision.
        heights, widths: heights and widths of the levels.
        locations: (N, Q, M, L, P, 2) float32 or float64, with any strides.
        weights: (N, Q, M, L, P) of the locations' dtype, with any strides.

    Returns:
        (N, Q, M D) of the locations' dtype.
    """
    images, queries, heads = weights.shape[:3]
    result = locations.new_empty(images, queries, heads * value.shape[-1])
    _launch(_sample, _SAMPLE_SHAPE, value, heights, widths, locations, weights, [result])
    return result


def sample_gradients(
    value: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    gradient: Tensor,
    needs_value: bool = True,
    needs_samples: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by value, locations and weights, given the gradient by the result of `sample`.

    The gradient by the value is summed in an undefined order: the last bits differ from run to run.

    Args:
        gradient: (N, Q, M D) of the locations' dtype.
        needs_value, needs_samples: which gradients are needed, the first or the other two; others are
            undefined.
    """
    to_value = torch.zeros(value.shape if needs_value else 0, dtype=locations.dtype, device=value.device)
    (locations, to_locations), (weights, to_weights) = map(_with_equal_strides, (locations, weights))
    _launch(
        _sample_gradients,
        _GRADIENTS_SHAPE,
        value,
        heights,
        widths,
        locations,
        weights,
        [gradient.contiguous(), to_value, to_locations, to_weights],
        needs_value=needs_value,
        needs_samples=needs_samples,
    )
    return to_value.to(value.dtype), to_locations, to_weights


def _with_equal_strides(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tensor, copied if it is expanded or has gaps, and an uninitialized one of equal strides."""
    other = torch.empty_like(tensor)
    return (tensor if other.stride() == tensor.stride() else torch.empty_like(other).copy_(tensor)), other


def _launch(
    kernel: Callable,
    shape: tuple[int, int],
    value: Tensor,
    heights: Sequence[int],
    widths: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    others: Sequence[Tensor],
    **needs: bool,
) -> None:
    """Launch a kernel; others: its arguments after those that both kernels share."""
    images, queries, heads, levels, points = weights.shape
    if images * queries == 0:
        return
    channels = value.shape[-1]
    queries_of_program, warps = shape
    grid = (triton.cdiv(queries, queries_of_program), heads, images)
    with torch.cuda.device(value.device) if value.is_cuda else nullcontext():
        kernel[grid](
            value.contiguous(),
            # As floats, because integers in a tuple would be specialized in spite of `_CHANGING`.
            tuple(map(float, heights)),
            tuple(map(float, widths)),
            locations,
            weights,
            *others,
            queries,
            value.shape[1],
            *locations.stride(),
            *weights.stride(),
            num_heads=heads,
            num_levels=levels,
            num_points=points,
            num_channels=channels,
            block=queries_of_program,
            columns=triton.next_power_of_2(channels),
            num_warps=warps,
            **needs,
        )


# Arguments that Triton must not specialize kernels for, as it does for 1 and multiples of 16.
_CHANGING = [
    "num_queries",
    "num_pixels",
    "location_image",
    "location_query",
    "location_head",
    "location_level",
    "location_point",
    "location_axis",
    "weight_image",
    "weight_query",
    "weight_head",
    "weight_level",
    "weight_point",
]


@triton.jit
def _row(column, line, height, width, is_query):
    """Return the row of a pixel within its level, and whether it is inside, for float positions (block,)."""
    # NaN is not inside.
    inside = is_query & (column >= 0) & (column < width) & (line >= 0) & (line < height)
    lines_above = tl.where(inside, line, 0.0).to(tl.int32) * tl.cast(width, tl.int32)
    return lines_above + tl.where(inside, column, 0.0).to(tl.int32), inside


@triton.jit
def _portion(distance, second: tl.constexpr):
    """Return the bilinear weight of the second of two pixels, or the first, `distance` from the first."""
    if second:
        return distance
    else:
        return 1 - distance


@triton.jit(do_not_specialize=_CHANGING)
def _sample(
    value,
    heights,
    widths,
    locations,
    weights,
    result,
    num_queries,
    num_pixels,
    location_image,
    location_query,
    location_head,
    location_level,
    location_point,
    location_axis,
    weight_image,
    weight_query,
    weight_head,
    weight_level,
    weight_point,
    num_heads: tl.constexpr,
    num_levels: tl.constexpr,
    num_points: tl.constexpr,
    num_channels: tl.constexpr,
    block: tl.constexpr,
    columns: tl.constexpr,
):
    dtype: tl.constexpr = locations.dtype.element_ty
    query = tl.program_id(0) * block + tl.arange(0, block)
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    channel = tl.arange(0, columns)[None, :]
    is_query, is_channel = query < num_queries, channel < num_channels
    item = (image * num_queries + query) * num_heads + head
    first_location = image * location_image + query.to(tl.int64) * location_query + head * location_head
    first_weight = image * weight_image + query.to(tl.int64) * weight_query + head * weight_head
    table = value + (image * num_pixels * num_heads + head) * num_channels + channel
    stride = num_heads * num_channels
    total = tl.zeros((block, columns), dtype=dtype)
    first_row = 0
    for level in tl.static_range(num_levels):
        height, width = heights[level], widths[level]
        for point in range(num_points):
            at = first_location + (level * location_level + point * location_point)
            x = tl.load(locations + at, mask=is_query, other=0.0) * width - 0.5
            y = tl.load(locations + at + location_axis, mask=is_query, other=0.0) * height - 0.5
            weight_at = first_weight + (level * weight_level + point * weight_point)
            weight = tl.load(weights + weight_at, mask=is_query, other=0.0)
            left, above = tl.floor(x), tl.floor(y)
            right, below = x - left, y - above
            for corner in tl.static_range(4):
                row, inside = _row(left + (corner % 2), above + (corner // 2), height, width, is_query)
                pointers = table + (first_row + row).to(tl.int64)[:, None] * stride
                read = tl.load(pointers, mask=inside[:, None] & is_channel, other=0.0).to(dtype)
                share = weight * _portion(right, corner % 2) * _portion(below, corner // 2)
                total += share[:, None] * read
        first_row += tl.cast(height, tl.int32) * tl.cast(width, tl.int32)
    tl.store(result + item[:, None] * num_channels + channel, total, mask=is_query[:, None] & is_channel)


@triton.jit(do_not_specialize=_CHANGING)
def _sample_gradients(
    value,
    heights,
    widths,
    locations,
    weights,
    gradient,
    to_value,
    to_locations,
    to_weights,
    num_queries,
    num_pixels,
    location_image,
    location_query,
    location_head,
    location_level,
    location_point,
    location_axis,
    weight_image,
    weight_query,
    weight_head,
    weight_level,
    weight_point,
    num_heads: tl.constexpr,
    num_levels: tl.constexpr,
    num_points: tl.constexpr,
    num_channels: tl.constexpr,
    block: tl.constexpr,
    columns: tl.constexpr,
    needs_value: tl.constexpr,
    needs_samples: tl.constexpr,
):
    dtype: tl.constexpr = locations.dtype.element_ty
    query = tl.program_id(0) * block + tl.arange(0, block)
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    channel = tl.arange(0, columns)[None, :]
    is_query, is_channel = query < num_queries, channel < num_channels
    item = (image * num_queries + query) * num_heads + head
    first_location = image * location_image + query.to(tl.int64) * location_query + head * location_head
    first_weight = image * weight_image + query.to(tl.int64) * weight_query + head * weight_head
    first_value = (image * num_pixels * num_heads + head) * num_channels + channel
    stride = num_heads * num_channels
    outer = tl.load(
        gradient + item[:, None] * num_channels + channel, mask=is_query[:, None] & is_channel, other=0.0
    )
    first_row = 0
    for level in tl.static_range(num_levels):
        height, width = heights[level], widths[level]
        for point in range(num_points):
            at = first_location + (level * location_level + point * location_point)
            x = tl.load(locations + at, mask=is_query, other=0.0) * width - 0.5
            y = tl.load(locations + at + location_axis, mask=is_query, other=0.0) * height - 0.5
            weight_at = first_weight + (level * weight_level + point * weight_point)
            weight = tl.load(weights + weight_at, mask=is_query, other=0.0)
            left, above = tl.floor(x), tl.floor(y)
            right, below = x - left, y - above
            by_x, by_y, by_weight = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
            for corner in tl.static_range(4):
                row, inside = _row(left + (corner % 2), above + (corner // 2), height, width, is_query)
                place = first_value + (first_row + row).to(tl.int64)[:, None] * stride
                is_read = inside[:, None] & is_channel
                across, down = _portion(right, corner % 2), _portion(below, corner // 2)
                if needs_samples:
                    read = tl.load(value + place, mask=is_read, other=0.0).to(dtype)
                    product = tl.sum(outer * read, axis=1)
                    by_x += (2 * (corner % 2) - 1) * down * product
                    by_y += (2 * (corner // 2) - 1) * across * product
                    by_weight += across * down * product
                if needs_value:
                    share = weight * across * down
                    tl.atomic_add(to_value + place, share[:, None] * outer, mask=is_read, sem="relaxed")
            if needs_samples:
                tl.store(to_locations + at, by_x * weight * width, mask=is_query)
                tl.store(to_locations + at + location_axis, by_y * weight * height, mask=is_query)
                tl.store(to_weights + weight_at, by_weight, mask=is_query)
        first_row += tl.cast(height, tl.int32) * tl.cast(width, tl.int32)
