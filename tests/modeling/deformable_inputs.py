"""Inputs for the tests of deformable attention."""

import torch
from torch import Tensor

# Powers of two: positions between pixels are exact, so that every implementation gets the same.
SIZES = [(4, 8), (2, 2), (1, 1)]


def make_inputs(
    dtype: torch.dtype = torch.float64,
    images: int = 2,
    queries: int = 9,
    heads: int = 2,
    points: int = 2,
    channels: int = 3,
    border: bool = False,
) -> list[Tensor]:
    """Make value, locations and weights that require gradients; only the value may have half precision.

    Args:
        border: locations are on pixel centers, half-way between them, on and outside the border, or far away.
            Otherwise they are anywhere, a third outside.
    """
    generator = torch.Generator().manual_seed(0)
    sampling_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    pixels = sum(height * width for height, width in SIZES)
    shape = (images, queries, heads, len(SIZES), points)
    value = torch.randn(images, pixels, heads, channels, generator=generator, dtype=sampling_dtype).to(dtype)
    if border:
        sizes = torch.tensor([(width, height) for height, width in SIZES])[:, None]
        steps = torch.randint(-4, 21, (*shape, 2), generator=generator)
        locations = (steps / (2 * sizes)).to(sampling_dtype)
        locations[:, 0] = 1e6
        locations[:, 1] = -1e6
    else:
        locations = torch.rand(*shape, 2, generator=generator, dtype=sampling_dtype) * 1.5 - 0.25
    weights = torch.rand(shape, generator=generator, dtype=sampling_dtype)
    return [tensor.requires_grad_() for tensor in (value, locations, weights)]


def to_device(tensors: list[Tensor], device: str) -> list[Tensor]:
    return [tensor.detach().to(device).requires_grad_() for tensor in tensors]
