"""Attention of all pixels of a map to all others, without their whole matrix of weights in memory.

Shape shorthand: N images, P pixels that ask, Q pixels that are asked, D channels of query and key, C channels
of the value.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Of the weights that are in memory together, per image. Larger parts are not faster.
_PART_BYTES = 8 << 20


def pixel_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float = 1.0, *, normalize_queries: bool = False
) -> Tensor:
    """Sums of values, weighted by the softmax of `scale * query . key`.

    The result and its gradients are those of the plain formulation; the memory grows with P + Q, not with
    P Q. Where keys and values have the same number of channels PyTorch's fused kernel does this. Elsewhere
    that takes the plain formulation, so the weights are formed part by part, and again for the backward pass.

    Args:
        query: (N, D, P) float.
        key: (N, D, Q) float.
        value: (N, C, Q) float.
        scale: factor of the products.
        normalize_queries: the softmax runs over the pixels that ask, instead of over those that are asked.

    Returns:
        (N, C, P)
    """
    if normalize_queries:
        rows = _rows_at_once(query)
        parts = zip(key.split(rows, dim=-1), value.split(rows, dim=-1), strict=True)
        return sum(
            _recomputed(_attend, query, key_part, value_part, scale, -2) for key_part, value_part in parts
        )
    if key.shape[1] == value.shape[1]:
        query, key, value = (x.transpose(1, 2).contiguous()[:, None] for x in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, scale=scale)[:, 0].transpose(1, 2)
    parts = query.split(_rows_at_once(key), dim=-1)
    return torch.cat([_recomputed(_attend, part, key, value, scale, -1) for part in parts], dim=-1)


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float, normalized: int) -> Tensor:
    """Plain attention, with the softmax over dimension `normalized` of the (N, P, Q) weights."""
    weights = (query * scale if scale != 1 else query).transpose(1, 2) @ key
    return value @ weights.softmax(dim=normalized).transpose(1, 2)


def _rows_at_once(row: Tensor) -> int:
    """How many rows of weights, each as long as (N, D, pixels) has pixels, make one part."""
    return max(1, _PART_BYTES // (row.shape[-1] * row.element_size()))


def _recomputed(function: Callable[..., Tensor], *arguments) -> Tensor:
    """The function's result; what it forms on the way is formed again for the backward pass, not kept."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
