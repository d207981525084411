"""Find NaN and infinite weights, left by a diverged training or a conversion to half precision."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from segzoo.utils.errors import InputError


class NonFiniteWeightsError(InputError):
    """Error for a weight, or an optimizer state of one, that is NaN or infinite."""


def check_finite(new: Mapping[str, Tensor], own: Mapping[str, Tensor], path: str) -> None:
    """Raise if a value is NaN or infinite, or becomes so in the model's precision.

    Infinities that the model itself has, as in an attention mask, are accepted.

    Args:
        new: the values to load, by the model's keys.
        own: the model's state.
        path: the file's.

    Raises:
        NonFiniteWeightsError: it names the first such weight.
    """
    broken = [key for key, value in new.items() if not _is_finite(value, own[key])]
    if not broken:
        return
    first = new[broken[0]].to(own[broken[0]].dtype)
    nan, infinite = int(first.isnan().sum()), int(first.isinf().sum())
    found = " and ".join(f"{count} {name}" for count, name in ((nan, "NaN"), (infinite, "infinite")) if count)
    raise NonFiniteWeightsError(
        f"{path}: {len(broken)} of {len(new)} weights are not finite, first {broken[0]} ({found} of "
        f"{first.numel()} values): a training diverged, or numbers were too large for half precision; take "
        "an earlier checkpoint, or convert the file again"
    )


def check_finite_optimizer(state: Mapping[str, Any], path: str) -> None:
    """Raise if a value in an optimizer's state is not finite: it would spoil the weights in one step.

    Args:
        state: the optimizer's `state_dict()`.
        path: the file's.

    Raises:
        NonFiniteWeightsError: it names the first such parameter.
    """
    names = _parameter_names(state)
    for index, moments in state.get("state", {}).items():
        for moment, value in moments.items() if isinstance(moments, Mapping) else ():
            if isinstance(value, Tensor) and not _all_finite(value):
                name = names.get(index, f"parameter {index}")
                raise NonFiniteWeightsError(
                    f"{path}: its optimizer's {moment} of {name} is not finite: a training diverged; take an "
                    "earlier checkpoint"
                )


def _parameter_names(state: Mapping[str, Any]) -> dict[int, str]:
    """Return parameter names by index, as segzoo's optimizers store them."""
    return {
        index: name
        for group in state.get("param_groups", ())
        for index, name in zip(group.get("params", ()), group.get("names", ()), strict=False)
    }


def _is_finite(value: Tensor, own: Tensor) -> bool:
    if not value.is_floating_point() or not own.is_floating_point():
        return True
    narrower = torch.finfo(own.dtype).max < torch.finfo(value.dtype).max
    value = value.to(own.dtype) if narrower else value
    # Infinities that the model has at the same positions are accepted.
    return _all_finite(value) or bool((value.isfinite() | (value == own.to(value.device, value.dtype))).all())


def _all_finite(value: Tensor) -> bool:
    # A finite sum proves all its terms finite, and is cheaper than a mask; a sum may overflow.
    if value.dtype in (torch.float32, torch.float64) and bool(value.sum().isfinite()):
        return True
    return bool(value.isfinite().all())
