"""Modulated deformable convolution as in res3 to res5 of R101-DCNv2 on an 800 x 1344 image, on a CPU.

The peer is torchvision's operator where it can be loaded, else the definition by `F.grid_sample`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from segzoo.compat import torchvision_has_ops
from segzoo.layers.deform_conv import convolve_on_grids, deform_conv2d
from segzoo.layers.deform_conv_rows import Geometry

from . import Case, Pair, gradients


def _peer(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    if torchvision_has_ops():
        # Imported here because torchvision without operators cannot be asked for this one.
        from torchvision.ops import deform_conv2d as by_torchvision

        return by_torchvision(x, offset, weight, padding=1, mask=mask)
    return convolve_on_grids(x, offset, weight, None, mask, Geometry((1, 1), (1, 1), (1, 1)))


def _ours(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    return deform_conv2d(x, offset, weight, padding=1, mask=mask)


def forward_and_backward(channels: int, height: int, width: int) -> Pair:
    torch.manual_seed(0)
    x = torch.randn(1, channels, height, width)
    weight = torch.randn(channels, channels, 3, 3) / (9 * channels) ** 0.5
    offset = 2 * torch.randn(1, 18, height, width)
    # Not on the lines between pixels, where the gradient jumps and depends on rounding.
    offset = offset.floor() + 0.01 + 0.98 * (offset - offset.floor())
    leaves = [tensor.requires_grad_() for tensor in (x, offset, weight, torch.rand(1, 9, height, width))]
    direction = torch.randn(1, channels, height, width)

    def run(convolve: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        output = convolve(*leaves)
        return output, *torch.autograd.grad(output, leaves, direction)

    return Pair(lambda: run(_ours), lambda: run(_peer), gradients.compare)


CASES = [
    Case(
        f"res{stage}-{channels}x{height}x{width}",
        "modulated deformable convolution, forward + backward; peer: torchvision, or grid_sample without it",
        lambda channels=channels, height=height, width=width: forward_and_backward(channels, height, width),
        goal=1.0,
        memory_goal=1.5,
    )
    for stage, channels, height, width in ((3, 128, 100, 168), (4, 256, 50, 84), (5, 512, 25, 42))
]
