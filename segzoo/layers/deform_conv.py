"""Deformable convolution: each tap of the kernel reads the image at an offset of its own.

Without modulation as in Dai et al. (2017), DCNv1; with it as in Zhu et al. (2019), DCNv2. Implementations:
- rows: sums of table rows (`deform_conv_rows`), on a CPU, and where results must be deterministic;
- torchvision: its compiled operator, on a CUDA device where it was loaded;
- grids: `F.grid_sample`, the reference: on other devices, and in traced graphs, which need standard
operators.

Shape shorthand: N images, C channels, H W size of the image, h w size of the output, T taps of the kernel
(its height times its width), D deformable groups.
"""

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn

from segzoo.utils.errors import InputError

from .deform_conv_rows import ConvolveRows, Geometry
from .runtime import autocast_type, without_autocast

Form = Literal["rows", "torchvision", "grids"]


class DeformConv2d(nn.Module):
    """A deformable convolution, whose offsets and modulation are computed outside, and a norm.

    The parameters are `weight`, `bias` and those of `norm`, as in Detectron2's `DeformConv` and
    `ModulatedDeformConv`. Weights are initialized as in He et al. (2015).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool = True,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ):
        """
        Args:
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: see `nn.Conv2d`.
            deformable_groups: number of groups of input channels with offsets of their own.
            norm, activation: applied to the result, in this order.

        Raises:
            InputError: the channels cannot be divided into the groups.
        """
        super().__init__()
        for name, channels, parts in (
            ("in_channels", in_channels, groups),
            ("out_channels", out_channels, groups),
            ("in_channels", in_channels, deformable_groups),
        ):
            if parts < 1 or channels % parts:
                raise InputError(
                    f"DeformConv2d: {name} {channels} cannot be divided into {parts} groups; change one of "
                    "them"
                )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride, self.padding, self.dilation = _pair(stride), _pair(padding), _pair(dilation)
        self.groups, self.deformable_groups = groups, deformable_groups
        self.mask_channels = deformable_groups * self.kernel_size[0] * self.kernel_size[1]
        self.offset_channels = 2 * self.mask_channels
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.norm = norm
        self.activation = activation
        c2_msra_fill(self)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Convolve x, (N, C, H, W) float.

        Args:
            offset: (N, offset_channels, h, w) float, see `deform_conv2d`.
            mask: (N, mask_channels, h, w) float; None without modulation.

        Returns:
            (N, out_channels, h, w) of the dtype of x.

        Raises:
            InputError: the shapes do not fit the layer.
        """
        if x.shape[1:2] != (self.in_channels,) or offset.shape[1:2] != (self.offset_channels,):
            raise InputError(
                f"DeformConv2d: found x {tuple(x.shape)} and offset {tuple(offset.shape)}; expected "
                f"{self.in_channels} and {self.offset_channels} channels"
            )
        x = deform_conv2d(x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)

    def extra_repr(self) -> str:
        """Return the sizes for `print`."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"deformable_groups={self.deformable_groups}, bias={self.bias is not None}"
        )


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute a deformable convolution, differentiable (once) in all tensors.

    The arguments are those of `torchvision.ops.deform_conv2d`, in that order. The image is zero outside, and
    positions between pixels are interpolated bilinearly. Half precision is computed in float32.

    Args:
        x: (N, C, H, W) float.
        offset: (N, D * T * 2, h, w) float, y before x for each tap, in pixels of x.
        weight: (out_channels, C / groups, kernel height, kernel width) float.
        bias: (out_channels,) float.
        stride, padding, dilation: as for `F.conv2d`; a pair is (vertical, horizontal).
        mask: (N, D * T, h, w) float, a factor on the value of each tap (the modulation of DCNv2).

    Returns:
        (N, out_channels, h, w) of the dtype of x.

    Raises:
        InputError: the shapes of the tensors do not agree.
    """
    geometry = Geometry(_pair(stride), _pair(padding), _pair(dilation))
    _check(x, offset, weight, mask, geometry)
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    form = choose_form(
        x.device.type,
        traced=traced,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        has_operator=not traced and _has_operator(),
    )
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    inputs = [
        tensor if tensor is None or tensor.dtype == dtype else tensor.to(dtype)
        for tensor in (x, offset, weight, bias, mask)
    ]
    # Only where it is on: the context would be recorded in an exported graph.
    mixed = autocast_type(x.device) is not None
    with without_autocast(x.device) if mixed else nullcontext():
        output = _FORMS[form](*inputs, geometry)
    return output if output.dtype == x.dtype else output.to(x.dtype)


def choose_form(
    device: str, *, traced: bool = False, deterministic: bool = False, has_operator: bool = False
) -> Form:
    """Choose the implementation.

    On a CPU, table rows are faster than torchvision's operator, forward and backward. On a CUDA device, the
    gradients of torchvision's operator and of `F.grid_sample` differ between runs.

    Args:
        device: type of the device, such as "cpu".
        traced: a graph is recorded, by torch.compile, torch.export or torch.jit.trace.
        deterministic: results must be bit-identical between runs.
        has_operator: torchvision's compiled operator was loaded.
    """
    if traced:
        return "grids"
    if device == "cpu" or (device == "cuda" and deterministic):
        return "rows"
    return "torchvision" if device == "cuda" and has_operator else "grids"


@functools.cache
def _has_operator() -> bool:
    return hasattr(torch.ops.torchvision, "deform_conv2d")


def _check(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, geometry: Geometry) -> None:
    """Raise unless the shapes agree."""
    shapes = [tuple(tensor.shape) for tensor in (x, offset, weight, mask) if tensor is not None]
    if any(len(shape) != 4 for shape in shapes):
        raise InputError(f"deform_conv2d: expected tensors of four dimensions, found the shapes {shapes}")
    channels, (count, width, *kernel) = x.shape[1], weight.shape
    groups = channels // width if width else 0
    if groups < 1 or groups * width != channels or count % groups:
        raise InputError(
            f"deform_conv2d: weight is {tuple(weight.shape)}, but x has {channels} channels; expected "
            "(output channels, input channels / groups, kernel height, kernel width)"
        )
    size = geometry.output_size(x.shape[2:], kernel)
    if min(size) < 1:
        raise InputError(
            f"deform_conv2d: a kernel of {tuple(kernel)} with dilation {geometry.dilation} is larger than an "
            f"image of {tuple(x.shape[2:])} with padding {geometry.padding}; enlarge the image or the padding"
        )
    taps = kernel[0] * kernel[1]
    parts = offset.shape[1] // (2 * taps)
    if parts < 1 or offset.shape[1] != 2 * taps * parts or channels % parts:
        raise InputError(
            f"deform_conv2d: offset has {offset.shape[1]} channels; expected {2 * taps} (y and x of a tap) "
            f"times a number of groups that divides the {channels} channels of x"
        )
    for name, tensor, number in (("offset", offset, 2 * taps * parts), ("mask", mask, taps * parts)):
        if tensor is not None and tuple(tensor.shape) != (len(x), number, *size):
            raise InputError(
                f"deform_conv2d: {name} is {tuple(tensor.shape)}; expected {(len(x), number, *size)} for x "
                f"{tuple(x.shape)}"
            )


def _by_torchvision(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, geometry: Geometry
) -> Tensor:
    taps = weight.shape[2] * weight.shape[3]
    return torch.ops.torchvision.deform_conv2d(
        x,
        weight,
        offset,
        offset.new_zeros(len(x), 1) if mask is None else mask,
        weight.new_zeros(len(weight)) if bias is None else bias,
        *geometry.stride,
        *geometry.padding,
        *geometry.dilation,
        x.shape[1] // weight.shape[1],
        offset.shape[1] // (2 * taps),
        mask is not None,
    )


def convolve_on_grids(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, geometry: Geometry
) -> Tensor:
    """Compute `deform_conv2d` by its definition: for each tap, `F.grid_sample` and a 1 x 1 convolution."""
    num_images, channels, height, width = x.shape
    kernel, size = weight.shape[2:], offset.shape[2:]
    taps = kernel[0] * kernel[1]
    parts, groups = offset.shape[1] // (2 * taps), channels // weight.shape[1]
    planes = x.reshape(num_images * parts, channels // parts, height, width)
    offset = offset.unflatten(1, (parts, taps, 2))
    lines, columns = geometry.pixels(size, x)
    output = None
    for tap, (below, right) in enumerate(geometry.taps(kernel)):
        tap_y = offset[:, :, tap, 0] + (lines[:, None] + below)
        tap_x = offset[:, :, tap, 1] + (columns + right)
        grid = torch.stack([(tap_x + 0.5) * (2 / width) - 1, (tap_y + 0.5) * (2 / height) - 1], dim=-1)
        samples = F.grid_sample(planes, grid.flatten(0, 1), padding_mode="zeros", align_corners=False)
        if mask is not None:
            factor = mask.unflatten(1, (parts, taps))[:, :, tap].flatten(0, 1)
            samples = samples * factor[:, None]
        samples = samples.reshape(num_images, channels, *size)
        share = F.conv2d(samples, weight.flatten(2)[:, :, tap, None, None], groups=groups)
        output = share if output is None else output + share
    return output if bias is None else output + bias[:, None, None]


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


_FORMS: dict[Form, Callable[..., Tensor]] = {
    "rows": ConvolveRows.apply,
    "torchvision": _by_torchvision,
    "grids": convolve_on_grids,
}
