"""Recurrent criss-cross attention, forward and backward, against the plain formulation.

Shape shorthand: N images, H W pixels of the feature map, D channels of query and key, C channels of the map.
"""

import torch
from torch import Tensor

from segzoo.projects.ccnet.criss_cross_attention import CrissCrossAttention

from . import Case, Pair, gradients


def plain(attention: CrissCrossAttention, x: Tensor) -> Tensor:
    """Compute energies by einsum and one softmax over the joined H + W, masking the pixel in its column."""
    query, key, value = attention.query(x), attention.key(x), attention.value(x)
    height = x.shape[2]
    itself = torch.full((height,), -torch.inf).diag()
    in_columns = torch.einsum("ndhw,ndiw->nhwi", query, key) + itself[:, None]
    in_rows = torch.einsum("ndhw,ndhj->nhwj", query, key)
    weights = torch.cat([in_columns, in_rows], dim=3).softmax(dim=3)
    attended = torch.einsum("nciw,nhwi->nchw", value, weights[..., :height])
    attended = attended + torch.einsum("nchj,nhwj->nchw", value, weights[..., height:])
    return attention.gamma * attended + x


def recurrent(height: int, width: int, channels: int = 512, recurrence: int = 2) -> Pair:
    torch.manual_seed(0)
    attention = CrissCrossAttention(channels, channels // 8)
    torch.nn.init.constant_(attention.gamma, 0.5)
    x = torch.randn(1, channels, height, width, requires_grad=True)
    direction = torch.randn(1, channels, height, width)
    # All but the key's bias: it adds the same to all energies of a pixel, and so has no gradient.
    leaves = [x, *(value for name, value in attention.named_parameters() if name != "key.bias")]

    def run(function) -> tuple[Tensor, ...]:
        y = x
        for _ in range(recurrence):
            y = function(y)
        return y, *torch.autograd.grad(y, leaves, direction)

    return Pair(lambda: run(attention), lambda: run(lambda y: plain(attention, y)), gradients.compare)


CASES = [
    Case(
        f"recurrent-{height}x{width}",
        f"two passes of criss-cross attention on 512x{height}x{width}, forward + backward; peer: by einsum",
        lambda height=height, width=width: recurrent(height, width),
        goal=1.0,
        memory_goal=0.5,
        repeat=5,
        recorded=height == width,
    )
    for height, width in ((97, 97), (64, 128))
]
