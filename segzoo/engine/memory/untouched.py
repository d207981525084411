"""Run PyTorch code for its memory alone: results are allocated but not computed.

Small tensors, such as indices and lists of classes, are computed as usual, so code that looks at them, and
compiled loops, work. A large result is a zero-filled region of address space that nobody writes, which takes
no memory: the shapes are those of PyTorch's kernels for the meta device. Autograd, custom functions and the
choice of implementations by device are those of a CPU, so tensors live as long as in a real run.
"""

import mmap
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from .heap import Heap
from .kernels import KERNELS
from .workspaces import WORKSPACES, is_channels_last

# Number of values up to which a result is computed; an operator with a larger argument is not run.
_COMPUTED = 1 << 14
# Private pages are zero until they are written. No swap space is set aside for them (Linux).
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
_META = torch.device("meta")
# Operators that return a view of their first argument, though their schemas do not say so.
_VIEWS = {torch.ops.aten._unsafe_view.default}


class UntouchedMemory(TorchDispatchMode):
    """Context in which CPU tensors are allocated, and large ones not computed.

    Attributes:
        live: number of bytes of the tensors that were made in the context, or given to `count`, and exist.
        peak: the largest value of `live`, with the workspaces of the operator that ran.
        heap: the memory of a process that allocates the same.
        kernels: number of bytes of the kernels that were compiled for the shapes seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.heap = Heap()
        self.kernels = 0
        self._compiled: set[Any] = set()
        self._bytes: dict[int, int] = {}
        self._shapes: dict[Any, Any] = {}

    def count(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors, those of one storage once, until their storage is released."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            place = storage._cdata
            if place not in self._bytes:
                self._bytes[place] = storage.nbytes()
                self.live += storage.nbytes()
                self.heap.allocate(place, storage.nbytes())
                weakref.finalize(storage, self._release, place)
        self.peak = max(self.peak, self.live)

    def _release(self, place: int) -> None:
        self.live -= self._bytes.pop(place)
        self.heap.free(place)

    def __torch_dispatch__(
        self, operator: Any, types: Any, arguments: tuple = (), keywords: dict | None = None
    ) -> Any:
        keywords = keywords or {}
        tensors = _tensors((arguments, keywords))
        if any(tensor.device.type != "cpu" for tensor in tensors):
            return operator(*arguments, **keywords)
        result = self._result(operator, arguments, keywords, tensors)
        self.count(_tensors(result))
        self._compile(operator, tensors)
        if operator in WORKSPACES:
            workspace = WORKSPACES[operator](arguments)
            self.peak = max(self.peak, self.live + workspace)
            self.heap.allocate(operator, workspace)
            self.heap.free(operator)
        return result

    def _compile(self, operator: Any, tensors: list[Tensor]) -> None:
        if operator in KERNELS and (key := (operator, *map(_described, tensors))) not in self._compiled:
            self._compiled.add(key)
            self.kernels += KERNELS[operator]

    def _result(self, operator: Any, arguments: tuple, keywords: dict, tensors: list[Tensor]) -> Any:
        returns = operator._schema.returns
        of_tensors = returns and all("Tensor" in str(one.type) for one in returns)
        small = all(tensor.numel() <= _COMPUTED for tensor in tensors)
        if operator in _VIEWS:
            return operator(*arguments, **keywords)
        if not of_tensors or (tensors and small):
            return operator(*arguments, **keywords) if small or returns else None
        if all(one.alias_info is not None for one in returns):
            if not any(one.alias_info.is_write for one in returns):
                return operator(*arguments, **keywords)  # a view
            return _written(operator, arguments, keywords)
        if operator is torch.ops.aten.all.default:
            return torch.ones((), dtype=torch.bool)  # it guards against values that are not zero
        try:
            shapes = self._on_meta(operator, arguments, keywords)
        except (NotImplementedError, RuntimeError):
            # Shapes that depend on values, or an error, which this repeats as a CPU reports it.
            return operator(*arguments, **keywords)
        if not tensors and all(tensor.numel() <= _COMPUTED for tensor in _tensors(shapes)):
            return operator(*arguments, **keywords)
        return tree_map_only(Tensor, _untouched, shapes)

    def _on_meta(self, operator: Any, arguments: tuple, keywords: dict) -> Any:
        """Return the results as tensors without data, from the memory of earlier calls where possible."""
        leaves, structure = tree_flatten((arguments, keywords))
        key = operator, structure, tuple(map(_described, leaves))
        if key not in self._shapes:
            moved = [_META if isinstance(leaf, torch.device) else _without_data(leaf) for leaf in leaves]
            arguments, keywords = tree_unflatten(moved, structure)
            if not any(isinstance(leaf, Tensor) for leaf in leaves):
                keywords = {**keywords, "device": _META, "pin_memory": None}
            self._shapes[key] = _SHAPES.get(operator, operator)(*arguments, **keywords)
        return self._shapes[key]


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _described(leaf: Any) -> Any:
    """Return what of an argument decides the shape of the results; it can be a key."""
    if isinstance(leaf, Tensor):
        return Tensor, leaf.shape, leaf.stride(), leaf.dtype
    return type(leaf), leaf


def _without_data(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=_META)


def _untouched(shape: Tensor) -> Tensor:
    """Return a CPU tensor of zeros, which takes memory only if it is small."""
    last = sum((length - 1) * stride for length, stride in zip(shape.shape, shape.stride(), strict=True))
    values = last + 1 if shape.numel() else 0
    size = values * shape.element_size()
    if values <= _COMPUTED:
        whole = torch.zeros(values, dtype=shape.dtype)
    else:
        whole = torch.frombuffer(mmap.mmap(-1, size, flags=_FLAGS), dtype=shape.dtype)
    return whole.as_strided(shape.shape, shape.stride())


def _written(operator: Any, arguments: tuple, keywords: dict) -> Any:
    """Return the arguments that an operator in place writes and returns, unchanged."""
    given = dict(zip((one.name for one in operator._schema.arguments), arguments, strict=False)) | keywords
    written = [
        given[one.name]
        for one in operator._schema.arguments
        if one.alias_info is not None and one.alias_info.is_write
    ]
    return written[0] if len(operator._schema.returns) == 1 else tuple(written)


def _convolution(x: Tensor, weight: Tensor, *arguments: Any) -> Tensor:
    result = torch.ops.aten.convolution(x, weight, *arguments)
    # As oneDNN does on a CPU, and the meta device does not.
    keeps = any(is_channels_last(tensor) for tensor in (x, weight))
    return result.contiguous(memory_format=torch.channels_last) if keeps else result


def _mkldnn_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: Any, stride: Any, dilation: Any, groups: int
) -> Tensor:
    zeros = [0] * len(stride)
    return _convolution(x, weight, bias, stride, padding, dilation, False, zeros, groups)


# Operators that PyTorch does not implement for the meta device, or with another memory format.
_SHAPES: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.convolution.default: _convolution,
    torch.ops.aten.mkldnn_convolution.default: _mkldnn_convolution,
}
