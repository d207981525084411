"""Attention between all pixels, forward and backward, against the plain formulation.

Shape shorthand: N images, P pixels, D channels of query and key, C channels of the value.
"""

import torch
from torch import Tensor

from segzoo.layers.pixel_attention import pixel_attention

from . import Case, Pair, gradients


def all_pixels(pixels: int, key_channels: int, channels: int, over_queries: bool = False) -> Pair:
    torch.manual_seed(0)
    leaves = [
        torch.randn(1, size, pixels, requires_grad=True) for size in (key_channels, key_channels, channels)
    ]
    direction = torch.randn(1, channels, pixels)
    scale = key_channels**-0.5

    def ours() -> tuple[Tensor, ...]:
        attended = pixel_attention(*leaves, scale, normalize_queries=over_queries)
        return attended, *torch.autograd.grad(attended, leaves, direction)

    def theirs() -> tuple[Tensor, ...]:
        query, key, value = leaves
        weights = (scale * query.transpose(1, 2) @ key).softmax(dim=1 if over_queries else 2)
        attended = value @ weights.transpose(1, 2)
        return attended, *torch.autograd.grad(attended, leaves, direction)

    return Pair(ours, theirs, gradients.compare)


CASES = [
    Case(
        "danet-64x64",
        "DANet's position attention on 512x64x64, forward + backward",
        lambda: all_pixels(64 * 64, 64, 512),
        peer="two products and a softmax",
        goal=1.0,
        memory_goal=0.5,
        repeat=5,
    ),
    Case(
        "danet-queries-64x64",
        "DANet's position attention as in pytorch-cv, softmax over the queries",
        lambda: all_pixels(64 * 64, 64, 512, over_queries=True),
        peer="two products and a softmax",
        memory_goal=0.5,
        repeat=3,
        recorded=False,
    ),
    Case(
        "ocnet-64x64",
        "OCNet's self-attention on 256x64x64, forward + backward",
        lambda: all_pixels(64 * 64, 256, 256),
        peer="two products and a softmax",
        goal=1.0,
        memory_goal=0.5,
        repeat=5,
        recorded=False,
    ),
]
