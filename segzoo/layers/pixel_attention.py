"""Attention of all pixels of a map to all others, without the complete weight matrix in memory.

Shape shorthand: N images, P query pixels, Q key pixels, D channels of query and key, C channels of the value.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Bytes of attention weights in memory at a time, per image. Larger parts are not faster.
_PART_BYTES = 8 << 20


def pixel_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0, *, normalize_queries: bool = False
) -> Tensor:
    """Return the sums of values weighted by the softmax of `scale * query . key`.

    The result and its gradients are those of the plain formulation; the memory grows with P + Q, not with
    P Q. If keys and values have the same number of channels, PyTorch's fused kernel is used. For other shapes
    PyTorch uses the plain formulation, so here the weights are computed in parts, and again in the backward
    pass.

    Args:
        query: (N, D, P) float.
        key: (N, D, Q) float.
        value: (N, C, Q) float.
        scale: factor of the products.
        normalize_queries: the softmax runs over query pixels instead of key pixels.

    Returns:
        (N, C, P)
    """
    if normalize_queries:
        rows = _rows_at_once(query)
        parts = zip(key.split(rows, dim=-1), value.split(rows, dim=-1), strict=True)
        return sum(
            _checkpointed(_attend, query, key_part, value_part, scale, -2) for key_part, value_part in parts
        )
    if key.shape[1] == value.shape[1]:
        query, key, value = (x.transpose(1, 2).contiguous()[:, None] for x in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, scale=scale)[:, 0].transpose(1, 2)
    parts = query.split(_rows_at_once(key), dim=-1)
    return torch.cat([_checkpointed(_attend, part, key, value, scale, -1) for part in parts], dim=-1)


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float, normalized: int) -> Tensor:
    """Compute plain attention, with the softmax over dimension `normalized` of the (N, P, Q) weights."""
    weights = (query * scale if scale != 1 else query).transpose(1, 2) @ key
    return value @ weights.softmax(dim=normalized).transpose(1, 2)


def _rows_at_once(row: Tensor) -> int:
    """Return the number of rows of weights, one weight per pixel of `row` (N, D, pixels), in one part."""
    return max(1, _PART_BYTES // (row.shape[-1] * row.element_size()))


def _checkpointed(function: Callable[..., Tensor], *arguments) -> Tensor:
    """Call the function with activation checkpointing."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
