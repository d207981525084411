"""Parameters and multiply-adds of a model, counted as fvcore counts them and papers cite them.

Nothing is computed: the model runs on the meta device, so that any network takes seconds at any image size.
"""

import contextlib
import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from segzoo.modeling import as_segmentor
from segzoo.modeling.build import build_model

_aten = torch.ops.aten


@dataclass(frozen=True)
class Complexity:
    """Parameters and multiply-adds of a model.

    Attributes:
        params: number of parameters by part, down to the second level of the module tree, frozen ones
            included; "other" counts what belongs to no part.
        flops: multiply-adds of one forward pass by part.
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
    """Count parameters, and the multiply-adds from an image to `raw_outputs`, post-processing excluded.

    Convolutions, linear layers and matrix products count one for each multiply-add, attention's two products
    included. As in fvcore, normalization layers count 5 for each value (batch norm 2, its statistics being
    fixed), bilinear resizing 4, nearest and average pooling 1; other element-wise operations count nothing.

    Args:
        model: a `Segmentor`, or a meta-architecture with `raw_outputs`, on any device; it is neither run nor
            changed.
        size: height and width of the image; the model may pad it.
    """
    network = without_data(model).eval()
    image = torch.empty((3, *size), dtype=torch.uint8, device="meta")
    parts = _parts(network)
    with torch.no_grad(), _Count() as count, _named_calls(network, parts, count.stack):
        as_segmentor(network).raw_outputs([{"image": image, "height": size[0], "width": size[1]}])
    params = {part: _parameter_count(network.get_submodule(part)) for part in parts}
    flops = {part: float(count.flops[part]) for part in parts}
    return Complexity(
        params=_with_rest(params, _parameter_count(network)),
        flops=_with_rest(flops, float(count.flops.total())),
        size=size,
    )


def analyze_config(cfg: CfgNode, size: tuple[int, int]) -> Complexity:
    """Run `analyze` on the model of a configuration, built without its weights."""
    cfg = cfg.clone()
    cfg.merge_from_list(["MODEL.DEVICE", "meta", "MODEL.WEIGHTS", ""])
    with torch.device("meta"):
        model = build_model(cfg)
    return analyze(model, size)


def without_data(model: nn.Module) -> nn.Module:
    """Return a copy of a model on the meta device, which takes no memory."""
    tensors = [*model.parameters(), *model.buffers()]
    memo: dict[int, Any] = {id(tensor): _like(tensor) for tensor in tensors}
    return copy.deepcopy(model, memo).to("meta")


def _like(tensor: Tensor) -> Tensor:
    copied = torch.empty_like(tensor, device="meta")
    return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied


class _Count(TorchDispatchMode):
    """Multiply-adds of the operators that run, added up for the innermost part on `stack`."""

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self.stack: list[str] = [""]

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: tuple = (), keywords: dict | None = None
    ) -> Any:
        result = operator(*arguments, **(keywords or {}))
        rule = _RULES.get(operator.overloadpacket)
        if rule is not None:
            self.flops[self.stack[-1]] += rule(arguments, result[0] if isinstance(result, tuple) else result)
        return result


def _product(left: int, right: int) -> Callable[[tuple, Tensor], int]:
    """Return the rule for (..., n, m) x (..., m, p), whose factors are the arguments `left` and `right`."""
    return lambda arguments, _: arguments[left].numel() * arguments[right].shape[-1]


def _convolution(arguments: tuple, output: Tensor) -> int:
    image, kernel, transposed = arguments[0], arguments[1], arguments[6]
    return len(image) * kernel.numel() * math.prod((image if transposed else output).shape[2:])


def _batch_norm(arguments: tuple, _: Tensor) -> int:
    if arguments[5]:  # batch statistics, as instance norm uses them
        return _norm(1)(arguments, _)
    return arguments[0].numel() * (1 if arguments[1] is None else 2)


def _norm(weight: int) -> Callable[[tuple, Tensor], int]:
    return lambda arguments, _: arguments[0].numel() * (4 if arguments[weight] is None else 5)


def _per_output_value(each: int) -> Callable[[tuple, Tensor], int]:
    return lambda _, output: each * output.numel()


# By PyTorch's elementary operators, which all others (attention and einsum too) decompose into.
_RULES: dict[Any, Callable[[tuple, Tensor], int]] = {
    _aten.mm: _product(0, 1),
    _aten.bmm: _product(0, 1),
    _aten.addmm: _product(1, 2),
    _aten.baddbmm: _product(1, 2),
    _aten.convolution: _convolution,
    _aten.native_batch_norm: _batch_norm,
    _aten.native_layer_norm: _norm(2),
    _aten.native_group_norm: _norm(1),
    _aten.upsample_nearest2d: _per_output_value(1),
    _aten.upsample_bilinear2d: _per_output_value(4),
    _aten.grid_sampler_2d: _per_output_value(4),
    _aten._adaptive_avg_pool2d: lambda arguments, _: arguments[0].numel(),
}


@contextlib.contextmanager
def _named_calls(model: nn.Module, parts: list[str], stack: list[str]) -> Iterator[None]:
    """Keep the name of each part on the stack while it runs, or while one of its modules is called alone."""
    handles = []
    for part in parts:
        module = model.get_submodule(part)
        for inner in module.modules():
            own = inner is module
            handles.append(
                inner.register_forward_pre_hook(
                    lambda *_, name=part, own=own: stack.append(name if own else stack[-1] or name)
                )
            )
            handles.append(inner.register_forward_hook(lambda *_: stack.pop() and None))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _parameter_count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def _with_rest(parts: dict[str, Any], total: float) -> dict[str, Any]:
    """Return the parts, with "other" for what is outside of them."""
    rest = total - sum(parts.values())
    return {**parts, "other": rest} if rest else parts


def _parts(model: nn.Module) -> list[str]:
    """Return the names of the model's children; for heads, those of their children."""
    parts = []
    for name, child in model.named_children():
        grandchildren = [f"{name}.{inner}" for inner, _ in child.named_children()]
        parts += grandchildren if name.endswith("head") and grandchildren else [name]
    return [part for part in parts if any(True for _ in model.get_submodule(part).parameters())]
