"""Parameters and multiply-adds of a model, counted as the papers and fvcore count them."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn


@dataclass(frozen=True)
class Complexity:
    """What a model costs.

    Attributes:
        params: parameter count by part, down to the second level of the module tree; frozen ones included;
            "other" is what belongs to no part.
        flops: multiply-adds of one forward pass, in the same way.
        size: height and width of the image of that pass.
    """

    params: dict[str, int]
    flops: dict[str, float]
    size: tuple[int, int]

    @property
    def total_params(self) -> int:
        return sum(self.params.values())

    @property
    def total_flops(self) -> float:
        return sum(self.flops.values())


def analyze(model: nn.Module, size: tuple[int, int]) -> Complexity:
    """Counts parameters, and the multiply-adds from an image to `raw_outputs`, post-processing excluded.

    Convolutions, linear layers and matrix products count, attention's included; normalisation layers count as
    in fvcore, element-wise operations do not. One multiply-add is one.

    Args:
        model: a meta-architecture with `raw_outputs`. It is run once.
        size: height and width of the image; the model may pad it.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    image = torch.zeros((3, *size), dtype=torch.uint8, device=device)
    analysis = FlopCountAnalysis(_RawOutputs(model), (image,))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
    with torch.no_grad():
        by_module = analysis.by_module()
    flops = {name.removeprefix("model."): float(count) for name, count in by_module.items()}
    model.train(training)
    parts = _parts(model)
    params = {part: _parameter_count(model.get_submodule(part)) for part in parts}
    return Complexity(
        params=_with_rest(params, _parameter_count(model)),
        flops=_with_rest({part: flops.get(part, 0.0) for part in parts}, flops[""]),
        size=size,
    )


def _parameter_count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def _with_rest(parts: dict[str, Any], total: float) -> dict[str, Any]:
    """The parts and, where they are not all, what is outside of them."""
    rest = total - sum(parts.values())
    return {**parts, "other": rest} if rest else parts


class _RawOutputs(nn.Module):
    """A model as a function of one image, which is what can be traced."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        height, width = image.shape[-2:]
        outputs = self.model.raw_outputs([{"image": image, "height": height, "width": width}])
        return tuple(value for value in outputs.values() if isinstance(value, Tensor))


def _parts(model: nn.Module) -> list[str]:
    """The children of the model, and the children of those that are heads: what a reader compares."""
    parts = []
    for name, child in model.named_children():
        grandchildren = [f"{name}.{inner}" for inner, _ in child.named_children()]
        parts += grandchildren if name.endswith("head") and grandchildren else [name]
    return [part for part in parts if any(True for _ in model.get_submodule(part).parameters())]


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """The two matrix products of attention, which PyTorch may run as one operator.

    query: (..., L, E); key: (..., S, E); value: (..., S, V).
    """
    query, key, value = (item.type().sizes() for item in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
