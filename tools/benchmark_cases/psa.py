"""PSANet's attention against the plain formulation: the whole map of offsets, a gather, a softmax, a product.

Shape shorthand: N images, C channels, h w the feature map.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.projects.psanet.attention import DIRECTIONS, offset_attention

from . import Case, Pair

CHANNELS = 512


def plain_attention(
    values: Tensor, positions: Tensor, weight: Tensor, index: Tensor, direction: str
) -> Tensor:
    """Compute `offset_attention` step by step; `index` is that of `offset_index`."""
    maps = F.conv2d(positions, weight.flatten(0, 1)[:, :, None, None]).flatten(2)
    scores = maps.gather(1, index.expand(len(maps), -1, -1))
    if direction == "distribute":
        scores = scores.transpose(1, 2)
    return (values.flatten(2) @ scores.softmax(dim=1)).view(values.shape)


def offset_index(height: int, width: int) -> Tensor:
    """Return (h w, h w) int64: the index into the map of offsets for a row's and a column's position."""
    place = torch.arange(height * width)
    row, column = place // width, place % width
    rows = row[:, None] - row + height - 1
    return rows * (2 * width - 1) + column[:, None] - column + width - 1


def both_directions(images: int, side: int, with_gradients: bool) -> Pair:
    """Compare both branches' attention on feature maps of side x side."""
    torch.manual_seed(0)
    leaves = [
        (
            torch.randn(images, CHANNELS, side, side).requires_grad_(with_gradients),
            torch.randn(images, CHANNELS, side, side).requires_grad_(with_gradients),
            (torch.randn(2 * side - 1, 2 * side - 1, CHANNELS) * 0.05).requires_grad_(with_gradients),
        )
        for _ in DIRECTIONS
    ]
    index = offset_index(side, side)
    weights = torch.randn(images, CHANNELS, side, side)

    def run(attention):
        with torch.set_grad_enabled(with_gradients):
            outputs = [attention(*leaf, way) for leaf, way in zip(leaves, DIRECTIONS, strict=True)]
            if not with_gradients:
                return outputs, ()
            loss = sum((output * weights).sum() for output in outputs)
            return [output.detach() for output in outputs], torch.autograd.grad(loss, sum(leaves, ()))

    def theirs(values: Tensor, positions: Tensor, weight: Tensor, direction: str) -> Tensor:
        return plain_attention(values, positions, weight, index, direction)

    return Pair(lambda: run(offset_attention), lambda: run(theirs), _compare)


def _compare(ours: tuple, theirs: tuple) -> str:
    pairs = [*zip(ours[0], theirs[0], strict=True), *zip(ours[1], theirs[1], strict=True)]
    worst = max(float((our - their).norm() / their.norm()) for our, their in pairs)
    return f"{worst:.1e}" if worst < 1e-5 else f"DIFFERENT: {worst:.1e}"


WHAT, PEER = "PSANet's collect and distribute", "gather, softmax, product"

CASES = [
    Case(
        "psa-465-test",
        f"{WHAT} of two crops of 465 (30 x 30, mask 59 x 59), forward; peer: {PEER}",
        lambda: both_directions(2, 30, with_gradients=False),
        goal=1.0,
        memory_goal=0.5,
    ),
    Case(
        "psa-465-train",
        f"{WHAT} of two crops of 465, forward + backward; peer: {PEER}",
        lambda: both_directions(2, 30, with_gradients=True),
        goal=1.0,
        memory_goal=0.5,
        repeat=5,
        recorded=False,
    ),
    Case(
        "psa-705-test",
        f"{WHAT} of a crop of 705 (45 x 45, mask 89 x 89), forward; peer: {PEER}",
        lambda: both_directions(1, 45, with_gradients=False),
        goal=1.0,
        memory_goal=0.5,
        repeat=5,
    ),
    Case(
        "psa-705-train",
        f"{WHAT} of a crop of 705, forward + backward; peer: {PEER}",
        lambda: both_directions(1, 45, with_gradients=True),
        goal=1.0,
        memory_goal=0.5,
        repeat=3,
        recorded=False,
    ),
]
