"""Multi-scale deformable attention, forward and backward, against its definition by `F.grid_sample`.

With a GPU, there are cases for it too. Their runs repeat the computation 20 times, so that launching it does
not count. Cases whose peer is a copy show how close the forward pass is to the memory bandwidth: the copy
moves as many bytes as are moved if every corner of every sample is read without a cache. A ratio of 0.5 is
within a factor of two of that limit.

Shape shorthand: N images, S pixels of all levels, M heads, D channels of a head, L levels, P points.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from segzoo.layers.deformable_attention import sample_levels
from segzoo.layers.deformable_sampling import sample_levels_on_grids

from . import Case, Pair, gradients

HEADS, CHANNELS, POINTS = 8, 32, 4
STRIDES = (32, 16, 8)
RUNS_ON_GPU = 20


def pixel_decoder_inputs(
    side: int, device: str, dtype: torch.dtype = torch.float32
) -> tuple[list[tuple[int, int]], list[Tensor]]:
    """Return inputs as in Mask2Former's pixel decoder on an image of side x side: all pixels are queries.

    Returns:
        (height, width) of each level; and value (1, S, M, D) of `dtype`, locations (1, S, M, L, P, 2) and
        weights (1, S, M, L, P), which require gradients.
    """
    torch.manual_seed(0)
    sizes = [(side // stride, side // stride) for stride in STRIDES]
    pixels = sum(height * width for height, width in sizes)
    value = torch.randn(1, pixels, HEADS, CHANNELS)
    centers = torch.rand(1, pixels, 1, 1, 1, 2)
    locations = centers + 0.05 * torch.randn(1, pixels, HEADS, len(sizes), POINTS, 2)
    # Not on the lines between pixels, where the gradient jumps and depends on rounding.
    scale = torch.tensor([(width, height) for height, width in sizes])[:, None]
    cells = locations * scale - 0.5
    cells = cells.floor() + 0.01 + 0.98 * (cells - cells.floor())
    locations = (cells + 0.5) / scale
    weights = torch.rand(1, pixels, HEADS, len(sizes) * POINTS).softmax(-1)
    weights = weights.unflatten(-1, (len(sizes), POINTS))
    leaves = value.to(dtype), locations, weights
    return sizes, [leaf.to(device).requires_grad_() for leaf in leaves]


def forward_and_backward(side: int, device: str) -> Pair:
    sizes, leaves = pixel_decoder_inputs(side, device)
    direction = torch.randn(1, len(leaves[0][0]), HEADS * CHANNELS).to(device)

    def run(sample: Callable) -> tuple[Tensor, ...]:
        read = sample(leaves[0], sizes, *leaves[1:])
        return read, *torch.autograd.grad(read, leaves, direction)

    return Pair(
        lambda: _repeated(device, lambda: run(sample_levels)),
        lambda: _repeated(device, lambda: run(sample_levels_on_grids)),
        gradients.compare,
    )


def forward_against_copy(side: int, device: str, dtype: torch.dtype) -> Pair:
    """Compare the forward pass with a copy of as many bytes as are read and written without a cache."""
    sizes, leaves = pixel_decoder_inputs(side, device, dtype)
    value, locations, weights = (leaf.detach() for leaf in leaves)
    result_bytes = 4 * value.numel()  # single precision
    samples_bytes = locations.nbytes + weights.nbytes
    compulsory = value.nbytes + samples_bytes + result_bytes
    calculated = 4 * weights.numel() * CHANNELS * value.element_size() + samples_bytes + result_bytes
    source = torch.randn(calculated // 8, device=device)
    target = torch.empty_like(source)

    def compare(ours: Tensor, _: Tensor) -> str:
        reference = sample_levels_on_grids(value.double(), sizes, locations.double(), weights.double())
        error = ((ours - reference).norm() / reference.norm()).item()
        rate, copy_rate = (calculated / seconds(run) / 1e9 for run in (forward, copy))
        verdict = (
            f"{error:.1e}; {calculated / 1e6:.0f} MB, {compulsory / 1e6:.0f} of them compulsory, at "
            f"{rate:.0f} GB/s; copy {copy_rate:.0f} GB/s"
        )
        return verdict if error < 1e-5 else f"DIFFERENT: {verdict}"

    def forward() -> Tensor:
        return _repeated(device, lambda: sample_levels(value, sizes, locations, weights))

    def copy() -> Tensor:
        return _repeated(device, lambda: target.copy_(source))

    def seconds(run: Callable) -> float:
        """Return the time of one of the repeated runs."""
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) / (1 if device == "cpu" else RUNS_ON_GPU)

    return Pair(forward, copy, compare)


def _repeated(device: str, run: Callable):
    """Return the result of the last run; on a GPU, repeat the run and synchronize."""
    if device == "cpu":
        return run()
    for _ in range(RUNS_ON_GPU):
        result = run()
    torch.cuda.synchronize()
    return result


WHAT = "8 heads, 3 levels, 4 points, image"

CASES = [
    Case(
        f"mask2former-{side}",
        f"{WHAT} {side} x {side}, forward + backward; peer: grid_sample",
        lambda side=side: forward_and_backward(side, "cpu"),
        goal=2.0,
        repeat=5,
        recorded=side == 1024,
    )
    for side in (512, 1024)
]
if torch.cuda.is_available():
    CASES += [
        Case(
            f"gpu-{side}",
            f"{WHAT} {side} x {side}, forward + backward, {RUNS_ON_GPU} runs; peer: grid_sample",
            lambda side=side: forward_and_backward(side, "cuda"),
            goal=3.0,
        )
        for side in (512, 1024)
    ]
    CASES += [
        Case(
            f"gpu-traffic-{side}-{name}",
            f"{WHAT} {side} x {side}, {name} values, forward, {RUNS_ON_GPU} runs; peer: copy of its bytes",
            lambda side=side, dtype=dtype: forward_against_copy(side, "cuda", dtype),
            goal=0.5,
        )
        for side in (512, 1024)
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    ]
