"""Models of other authors with seeded weights, and files of recorded results."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.peers.seeded import Adjustments, pack_shapes, seeded_weights


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of each floating-point entry of the state dict, by name."""
    return {name: tuple(v.shape) for name, v in model.state_dict().items() if v.is_floating_point()}


def integers_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of each other entry of the state dict, by name."""
    return {name: tuple(v.shape) for name, v in model.state_dict().items() if not v.is_floating_point()}


def fill(model: nn.Module, seed: int, adjustments: Adjustments) -> dict[str, np.ndarray]:
    """Load seeded weights into the model and return them."""
    weights = seeded_weights(shapes_of(model), seed, adjustments)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=False)
    return weights


def names_case(model: nn.Module) -> dict[str, np.ndarray]:
    """Return names and shapes of the state dict, integers separately."""
    return {"shapes": pack_shapes(shapes_of(model)), "integers": pack_shapes(integers_of(model))}


def initial_values(model: nn.Module, backbone: str) -> np.ndarray:
    """Return mean and standard deviation of the parameters, by sorted names, in half precision.

    Args:
        model: with initial values.
        backbone: parameters with this in their names are left out.
    """
    outside = [value for name, value in sorted(model.named_parameters()) if backbone not in name]
    summary = [(float(value.mean()), float(value.std(correction=0))) for value in outside]
    return np.array(summary, np.float16)


def save_case(folder: Path, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a case and print its size."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {path.stat().st_size} bytes")


@contextmanager
def double_precision() -> Iterator[None]:
    """Let new tensors be float64, and `Tensor.float()`, which losses call, return float64."""
    convert, default = torch.Tensor.float, torch.get_default_dtype()
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.Tensor.float = convert
        torch.set_default_dtype(default)
