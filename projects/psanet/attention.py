"""Point-wise spatial attention in plain PyTorch, exact and without its large tensors (PSANet, section 3.2).

Every position weights every other one by their offset: a 1 x 1 convolution gives it a map of offsets, and
only the cells inside the image are used. The published operator computes the whole map, of which three
quarters are outside of the image, then the (h w) x (h w) matrix. Here each block of targets computes only the
part of the map that it needs, as a matrix product with a window of the convolution's weights, and reads the
matrix as a strided view of it. The backward pass recomputes each block.

Shape shorthand: N images, C channels of the positions, V channels of the values, h w size of the feature map,
Mh Mw size of the map of offsets (2 h - 1 and 2 w - 1 if it covers all offsets), S = h w sources, T targets of
a block; B rows of positions have weights for the locations of Q rows.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

DIRECTIONS = ("collect", "distribute")

# Targets are processed in this number of blocks of rows; more blocks need less memory but more kernel calls.
_BLOCKS = 8


def offset_attention(values: Tensor, positions: Tensor, weight: Tensor, direction: str) -> Tensor:
    """Apply attention whose scores depend on one position and the offset to the other.

    The score of source s and target t is `weight[s - t] . positions[t]` for direction "collect" and
    `weight[t - s] . positions[s]` for "distribute"; a softmax over the sources gives the attention weights.

    Args:
        values: (N, V, h, w) float.
        positions: (N, C, h, w) float.
        weight: (Mh, Mw, C) float, offset 0 at (Mh - 1) // 2, (Mw - 1) // 2. Offsets outside of it have score
            0; offsets that do not occur in an h x w map are not used.
        direction: "collect": each target scores the sources; "distribute": each source scores the targets.

    Returns:
        (N, V, h, w) with the dtype of `positions`: at each target the weighted sum of the sources' values.
    """
    missing = [0, 0]
    for size, side in zip(weight.shape[1::-1], positions.shape[:1:-1], strict=True):
        before = side - 1 - (size - 1) // 2
        missing += [before, 2 * side - 1 - size - before]
    if any(missing):
        weight = F.pad(weight, missing)  # negative padding crops
    weight = weight.to(positions.dtype)
    values = values.to(positions.dtype)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (values, positions, weight)):
        return _OffsetAttention.apply(values, positions, weight, direction)
    return _forward(values, positions, weight, direction)


def compact_attention(values: Tensor, positions: Tensor, weight: Tensor, direction: str) -> Tensor:
    """Apply attention whose scores depend on one position and the absolute location of the other.

    The score of source s and target t is `weight[s] . positions[t]` for direction "collect" and
    `weight[t] . positions[s]` for "distribute".

    Args:
        values: (N, V, h, w) float.
        positions: (N, C, h, w) float.
        weight: (h w, C) float, the locations row by row.
        direction: see `offset_attention`.

    Returns:
        (N, V, h, w) with the dtype of `positions`.
    """
    places = weight.to(positions.dtype).expand(len(positions), -1, -1)
    at_positions = positions.flatten(2).transpose(1, 2)
    queries, keys = (at_positions, places) if direction == "collect" else (places, at_positions)
    shared = values.to(positions.dtype).flatten(2).transpose(1, 2)
    targets = F.scaled_dot_product_attention(queries, keys, shared, scale=1.0)
    return targets.transpose(1, 2).reshape(values.shape)


class _OffsetAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, positions: Tensor, weight: Tensor, direction: str) -> Tensor:
        ctx.save_for_backward(values, positions, weight)
        ctx.direction = direction
        return _forward(values, positions, weight, direction)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        values, positions, weight = ctx.saved_tensors
        sources = values.flatten(2)
        by_row = _rows_first(positions)
        # Sums over the blocks in at least float32, since half precision would round repeatedly.
        precise = torch.promote_types(weight.dtype, torch.float32)
        grad_sources = torch.zeros_like(sources, dtype=precise)
        grad_by_row = torch.zeros_like(by_row, dtype=precise)
        grad_weight = torch.zeros_like(weight, dtype=precise)
        for first, last in _blocks(positions.shape[2]):
            rows = _rows_of_block(ctx.direction, first, last, positions.shape[2])
            shares = _shares(by_row, weight, ctx.direction, rows)
            grad_targets = grad_output[:, :, first:last].flatten(2)
            grad_sources += grad_targets @ shares
            # Softmax gradient: share x (gradient - sum of share x gradient).
            grad_scores = (grad_targets.transpose(1, 2) @ sources).mul_(shares)
            grad_scores.addcmul_(shares, grad_scores.sum(dim=-1, keepdim=True), value=-1)
            _add_gradients(grad_by_row, grad_weight, grad_scores, by_row, weight, ctx.direction, rows)
        grad_values = grad_sources.view_as(values).to(values.dtype)
        grad_positions = grad_by_row.permute(1, 3, 0, 2).to(positions.dtype)
        return grad_values, grad_positions, grad_weight.to(weight.dtype), None


def _forward(values: Tensor, positions: Tensor, weight: Tensor, direction: str) -> Tensor:
    height = positions.shape[2]
    by_row = _rows_first(positions)
    sources = values.flatten(2)
    blocks = []
    for first, last in _blocks(height):
        shares = _shares(by_row, weight, direction, _rows_of_block(direction, first, last, height))
        blocks.append(sources @ shares.transpose(1, 2))
    return torch.cat(blocks, dim=2).view(values.shape)


def _blocks(height: int) -> list[tuple[int, int]]:
    """Return the rows of targets, first and last + 1, of each block."""
    step = -(-height // _BLOCKS)
    return [(first, min(first + step, height)) for first in range(0, height, step)]


def _rows_of_block(direction: str, first: int, last: int, height: int) -> tuple[int, int, int, int]:
    """Return the rows, first and last + 1, of the positions and of the locations that they weight."""
    return (first, last, 0, height) if direction == "collect" else (0, height, first, last)


def _rows_first(positions: Tensor) -> Tensor:
    """Permute (N, C, h, w) to (h, N, w, C), contiguous."""
    return positions.permute(2, 0, 3, 1).contiguous()


def _shares(by_row: Tensor, weight: Tensor, direction: str, rows: tuple[int, int, int, int]) -> Tensor:
    """Return the softmax of a block's scores, (N, T, S); each row sums to 1."""
    windows = _windows(weight, rows)
    queries = by_row[rows[0] : rows[1]].flatten(1, 2).flip(0)
    maps = torch.bmm(queries, windows.flatten(1, 2).transpose(1, 2))
    scores = _targets_by_sources(_in_image(maps, by_row.shape, rows), direction)
    precise = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(dim=-1, dtype=precise).to(by_row.dtype)


def _windows(weight: Tensor, rows: tuple[int, int, int, int]) -> Tensor:
    """Return the weights of Q rows for each of the B rows of positions, last first: a view (B, Q, Mw, C).

    The order is reversed because the window moves up as the position moves down, and strides are not
    negative.
    """
    first, last, other_first, other_last = rows
    half = weight.shape[0] // 2
    start = other_first - (last - 1) + half
    used = weight[start : start + (other_last - other_first) + (last - first) - 1]
    return used.unfold(0, other_last - other_first, 1).permute(0, 3, 1, 2)


def _in_image(maps: Tensor, shape: torch.Size, rows: tuple[int, int, int, int]) -> Tensor:
    """Return the cells of (B, N w, Q Mw) maps that are inside the image, as a view (B, N, w, Q, w).

    The last axis is the column of the location. For column x of the position it starts at cell w - 1 - x: a
    step along x is a row of cells minus one.
    """
    _, images, width, _ = shape
    num_rows, num_places = rows[1] - rows[0], rows[3] - rows[2]
    cells = 2 * width - 1
    row = num_places * cells
    strides = (images * width * row, width * row, row - 1, cells, 1)
    return maps.as_strided((num_rows, images, width, num_places, width), strides, width - 1)


def _targets_by_sources(scores: Tensor, direction: str) -> Tensor:
    """Permute (B, N, w, Q, w) scores, rows of the positions in reverse order, to (N, T, S)."""
    scores = scores.flip(0)
    if direction == "collect":
        return scores.transpose(0, 1).flatten(3, 4).flatten(1, 2)
    return scores.permute(1, 3, 4, 0, 2).flatten(3, 4).flatten(1, 2)


def _add_gradients(
    grad_by_row: Tensor,
    grad_weight: Tensor,
    grad_scores: Tensor,
    by_row: Tensor,
    weight: Tensor,
    direction: str,
    rows: tuple[int, int, int, int],
) -> None:
    """Add the gradients of positions and weights, given that of a block's scores, (N, T, S)."""
    first, last, other_first, other_last = rows
    _, images, width, channels = by_row.shape
    num_rows, num_places = last - first, other_last - other_first
    grad_maps = grad_scores.new_zeros((num_rows, images * width, num_places * weight.shape[1]))
    if direction == "collect":
        ordered = grad_scores.view(images, num_rows, width, num_places, width).transpose(0, 1)
    else:
        ordered = grad_scores.view(images, num_places, width, num_rows, width).permute(3, 0, 4, 1, 2)
    _in_image(grad_maps, by_row.shape, rows).copy_(ordered.flip(0))

    windows = _windows(weight, rows).flatten(1, 2)
    grad_queries = torch.bmm(grad_maps, windows).flip(0)
    grad_by_row[first:last] += grad_queries.view(num_rows, images, width, channels)
    start = other_first - (last - 1) + weight.shape[0] // 2
    for index in range(num_rows):
        window = grad_weight[start + index : start + index + num_places].view(-1, channels)
        row = by_row[last - 1 - index].flatten(0, 1)
        if row.dtype == window.dtype:
            window.addmm_(grad_maps[index].T, row)
        else:
            window += grad_maps[index].T @ row
