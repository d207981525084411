"""Multi-scale deformable attention, beside its memory traffic and its definition by `F.grid_sample`.

`traffic`: the bytes of all corners of all samples, as a share of what the device copies in the same time;
above 1 they come from a cache. `compulsory`: the same for reading and writing every value once.
"""

import torch
from benchmark_cases.deformable_attention import CHANNELS, HEADS, POINTS, pixel_decoder_inputs

from segzoo.layers.deformable_attention import sample_levels
from segzoo.layers.deformable_sampling import sample_levels_on_grids

from . import Rows, Settings
from .measuring import device_work, failures_in_rows, milliseconds


def run(settings: Settings, rows: Rows) -> None:
    bandwidth = _copied_bytes(settings)
    for side in (64,) if settings.small else (512, 1024):
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            with failures_in_rows(rows, side=side, values=name):
                _measure(side, dtype, name, bandwidth, settings, rows)


def _copied_bytes(settings: Settings) -> float:
    """Return the bytes that a copy on the device reads and writes in a millisecond."""
    size = (1 << 20) if settings.small else (1 << 30)
    source = torch.empty(size, dtype=torch.uint8, device=settings.device)
    target = torch.empty_like(source)
    return 2 * size / milliseconds(lambda: target.copy_(source), settings, 0.2)


def _measure(
    side: int, dtype: torch.dtype, name: str, bandwidth: float, settings: Settings, rows: Rows
) -> None:
    sizes, leaves = pixel_decoder_inputs(side, settings.device, dtype)
    value, locations, weights = leaves
    pixels = value.shape[1]
    direction = torch.randn(1, pixels, HEADS * CHANNELS, device=settings.device)
    samples = pixels * HEADS * len(sizes) * POINTS
    corners = samples * 4 * CHANNELS * value.element_size()
    once = sum(one.numel() * one.element_size() for one in (value, locations, weights, direction))

    def forward() -> None:
        with torch.no_grad():
            sample_levels(value, sizes, locations, weights)

    def both(sample=sample_levels) -> None:
        torch.autograd.grad(sample(value, sizes, locations, weights), leaves, direction)

    def peer() -> None:
        torch.autograd.grad(
            sample_levels_on_grids(value.float(), sizes, locations, weights), leaves, direction
        )

    time, time_of_both = milliseconds(forward, settings, 0.3), milliseconds(both, settings, 0.5)
    rows.add(
        side=side,
        values=name,
        pixels=pixels,
        **{
            "forward ms": time,
            "backward ms": max(time_of_both - time, 0.0),
            "traffic": corners / time / bandwidth,
            "compulsory": once / time / bandwidth,
            "atomic adds": 4 * samples * CHANNELS,
            "grid_sample, both ms": milliseconds(peer, settings, 0.3),
            **device_work(both, settings),
        },
    )
