"""Multi-scale deformable attention, forward and backward, against its definition by `F.grid_sample`.

Letters: N images, S pixels of all levels, M heads, D channels of a head, L levels, P points.
"""

import torch
from torch import Tensor

from segzoo.layers.deformable_attention import sample_levels, sample_levels_on_grids

from . import Case, Pair, gradients

HEADS, CHANNELS, POINTS = 8, 32, 4


def every_pixel_reads(side: int) -> Pair:
    """As in Mask2Former's pixel decoder on an image of side x side: strides 32, 16, 8; all pixels ask."""
    torch.manual_seed(0)
    sizes = [(side // stride, side // stride) for stride in (32, 16, 8)]
    pixels = sum(height * width for height, width in sizes)
    value = torch.randn(1, pixels, HEADS, CHANNELS, requires_grad=True)
    centres = torch.rand(1, pixels, 1, 1, 1, 2)
    locations = centres + 0.05 * torch.randn(1, pixels, HEADS, len(sizes), POINTS, 2)
    # Not on the lines between pixels, where the gradient jumps and rounding decides on which side.
    scale = torch.tensor([(width, height) for height, width in sizes])[:, None]
    cells = locations * scale - 0.5
    cells = cells.floor() + 0.01 + 0.98 * (cells - cells.floor())
    locations = ((cells + 0.5) / scale).requires_grad_()
    weights = torch.rand(1, pixels, HEADS, len(sizes) * POINTS).softmax(-1)
    weights = weights.unflatten(-1, (len(sizes), POINTS)).requires_grad_()
    leaves = [value, locations, weights]
    direction = torch.randn(1, pixels, HEADS * CHANNELS)

    def run(sample) -> tuple[Tensor, ...]:
        read = sample(value, sizes, locations, weights)
        return read, *torch.autograd.grad(read, leaves, direction)

    return Pair(lambda: run(sample_levels), lambda: run(sample_levels_on_grids), gradients.compare)


CASES = [
    Case(
        f"mask2former-{side}",
        f"8 heads, 3 levels, 4 points, image {side} x {side}, forward + backward; peer: grid_sample",
        lambda side=side: every_pixel_reads(side),
        goal=2.0,
        repeat=5,
    )
    for side in (512, 1024)
]
