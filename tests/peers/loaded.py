"""Models of segzoo with seeded weights, loaded from a file in the form that the authors publish."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn

from segzoo.checkpoint import SegzooCheckpointer
from segzoo.model_zoo import load_config
from tests.peers.seeded import gradient_summary, official_names, unpack_shapes


def published_file(path: Path, weights: Mapping[str, np.ndarray], integers: Any, wrapper: str) -> str:
    """Write weights, and integer buffers of zeros, below the key `wrapper`, and return the path."""
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    state |= {name: torch.zeros(shape, dtype=torch.int64) for name, shape in unpack_shapes(integers).items()}
    torch.save({wrapper: state}, path)
    return str(path)


def loaded_model(leaf: str, file: str, *overrides: object) -> tuple[nn.Module, Any]:
    """Build the model of a leaf and load a complete file as MODEL.WEIGHTS does.

    Returns:
        The model and its configuration.
    """
    cfg = load_config(leaf, [*map(str, overrides), "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", file])
    model = build_model(cfg)
    checkpointer = SegzooCheckpointer(model)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=False)
    checkpointer.report.require_complete()
    return model, cfg


def fresh_model(cfg: Any, seed: int = 0) -> nn.Module:
    """Build the model of a configuration with its initial values, drawn from `seed`."""
    torch.manual_seed(seed)
    return build_model(cfg)


def without_noise(model: nn.Module) -> nn.Module:
    """Set every dropout and drop-path probability to 0 and return the model."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "drop_prob", "drop_rate", "rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def names_of_parameters(model: nn.Module, weights: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return the authors' name of every parameter that holds one weight of the file, by its name."""
    return official_names(weights, ((name, one.detach().numpy()) for name, one in model.named_parameters()))


def gradients_by_name(model: nn.Module, names: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """Return `gradient_summary` by the authors' names; parameters without gradient are left out."""
    return {
        names[name]: gradient_summary(one.detach().numpy(), one.grad.numpy())
        for name, one in model.named_parameters()
        if one.grad is not None and name in names
    }


def worst_gradients(
    found: Mapping[str, tuple[float, float]], recorded: Mapping[str, Sequence[float]], tolerance: float
) -> list[str]:
    """Return a line for each parameter whose gradient differs by more than `tolerance` of its norm.

    Norms below 1e-5 are taken as 1e-5.
    """
    lines = []
    for name, (norm, product) in recorded.items():
        allowed = tolerance * max(norm, abs(product), 1e-5)
        if name not in found:
            lines.append(f"{name}: no gradient, expected norm {norm:.3g}")
        elif abs(found[name][0] - norm) > allowed or abs(found[name][1] - product) > allowed:
            lines.append(f"{name}: norm and product with |weight| {found[name]}, expected {norm}, {product}")
    return lines


def different_initial_values(
    model: nn.Module, names: Mapping[str, str], recorded: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return the parameters whose mean or standard deviation differs by more than the noise of sampling.

    Args:
        model: with initial values.
        names: the authors' name of each parameter.
        recorded: mean and standard deviation of the authors' parameters, half precision.
    """
    different = {}
    for name, parameter in model.named_parameters():
        if names.get(name) not in recorded:
            continue
        values, (mean, deviation) = parameter.detach(), recorded[names[name]]
        found = (float(values.mean()), float(values.std(correction=0)))
        # A single random value has no deviation.
        spread = max(deviation, found[1]) if values.numel() > 1 else max(abs(found[0]), abs(mean))
        noise = 5 * spread / values.numel() ** 0.5 + 2e-3 * (abs(mean) + deviation) + 1e-6
        differs = [abs(ours - theirs) > noise for ours, theirs in zip(found, (mean, deviation), strict=True)]
        differs.append((found == (0, 0)) != (mean == deviation == 0))
        if any(differs):
            different[names[name]] = (found, (mean, deviation))
    return different


def to_array(tensor: Tensor) -> np.ndarray:
    """Return a tensor as an array."""
    return tensor.detach().cpu().numpy()
