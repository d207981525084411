"""Criss-cross attention (Huang et al., CCNet, ICCV 2019, section 3.2) in plain PyTorch.

Every pixel attends to the H + W - 1 pixels of its row and column, including itself once.

Shape shorthand: N images, H W pixels of the feature map, D channels of query and key, C channels of the map.
"""

import torch
from torch import Tensor, nn

from segzoo.layers.runtime import autocast_type, without_autocast

# The backward pass splits the channels into this number of slices, large enough for fast matrix products, ...
_SLICES = 4
# ... and copies a slice in this number of parts. A GPU is faster with few large operations.
_PARTS = {"cpu": 2}


class CrissCrossAttention(nn.Module):
    """Computes `gamma * attention(x) + x` with 1 x 1 projections to query, key, value; gamma starts at 0.

    The attention weights sum to one, so the value's convolution can follow the sum, and gamma can be merged
    into that convolution. In training only the input is saved; the backward pass recomputes the rest, a slice
    of the channels at a time.

    Args:
        channels: C.
        key_channels: D.
    """

    def __init__(self, channels: int, key_channels: int):
        super().__init__()
        self.query = nn.Conv2d(channels, key_channels, 1)
        self.key = nn.Conv2d(channels, key_channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention to x, (N, C, H, W) float."""
        parameters = [p for c in (self.query, self.key, self.value) for p in (c.weight.flatten(1), c.bias)]
        arguments = [x.contiguous(), *parameters, self.gamma]
        dtype = autocast_type(x.device)
        if dtype is not None:
            arguments = [argument.to(dtype) for argument in arguments]
        with without_autocast(x.device):
            if torch.is_grad_enabled():
                return _Block.apply(*arguments)
            return _forward(*arguments)


class _Block(torch.autograd.Function):
    """The computation of `CrissCrossAttention` with a memory-saving backward pass."""

    @staticmethod
    def forward(ctx, *arguments: Tensor) -> Tensor:
        ctx.save_for_backward(*arguments)
        return _forward(*arguments)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        x, *parameters, gamma = ctx.saved_tensors
        grad, grad_x = grad.contiguous(), torch.empty_like(x)
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        with without_autocast(x.device):
            for image, image_grad, image_grad_x in zip(x, grad, grad_x, strict=True):
                _backward_image(image_grad, image, parameters, gamma, image_grad_x, sums)
        # These are the gradients of gamma * value so far; split them.
        (weight, bias), (grad_weight, grad_bias) = parameters[4:], sums[4:]
        grad_gamma = (grad_weight * weight).sum() + (grad_bias * bias).sum()
        return grad_x, *sums[:4], gamma * grad_weight, gamma * grad_bias, grad_gamma.reshape(gamma.shape)


def _forward(
    x: Tensor,
    query_weight: Tensor,
    query_bias: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    gamma: Tensor,
) -> Tensor:
    results, attended = torch.empty_like(x), torch.empty_like(x[0])
    weight, bias = gamma * value_weight, gamma * value_bias
    for image, result in zip(x, results, strict=True):
        in_rows, in_columns = _weights(
            _project(image, query_weight, query_bias), _project(image, key_weight, key_bias)
        )
        for part in _split(slice(0, len(image)), _SLICES * _PARTS.get(x.device.type, 1)):
            _attend(image[part], _columns(image[part]), in_rows, in_columns, attended[part])
        flat_result = torch.add(image, bias[:, None, None], out=result).flatten(1)
        torch.addmm(flat_result, weight, attended.flatten(1), out=flat_result)
    return results


def _backward_image(
    grad: Tensor, x: Tensor, parameters: list[Tensor], gamma: Tensor, grad_x: Tensor, sums: list[Tensor]
) -> None:
    """Run the backward pass of one image.

    Args:
        grad: (C, H, W) gradient of the result.
        x: (C, H, W) input.
        parameters: weights and biases of query, key and value.
        gamma: scalar.
        grad_x: (C, H, W), overwritten with the gradient of `x`.
        sums: accumulated gradients, shaped like `parameters`; for the value, those of gamma * value.
    """
    query_weight, query_bias, key_weight, key_bias, value_weight, _ = parameters
    query, key = _project(x, query_weight, query_bias), _project(x, key_weight, key_bias)
    in_rows, in_columns = _weights(query, key)
    grad_in_rows, grad_in_columns = torch.zeros_like(in_rows), torch.zeros_like(in_columns)
    weight = gamma * value_weight
    flat_grad, flat_x, flat_grad_x = grad.flatten(1), x.flatten(1), grad_x.flatten(1)
    for channels in _split(slice(0, len(x)), _SLICES):
        parts = _split(channels, _PARTS.get(x.device.type, 1))
        # First the attended maps, for the value's weight; then their gradient, in the same memory.
        attended = torch.empty_like(x[channels])
        pieces = attended.split([part.stop - part.start for part in parts])
        for part, piece in zip(parts, pieces, strict=True):
            _attend(x[part], _columns(x[part]), in_rows, in_columns, piece)
        sums[4][:, channels].addmm_(flat_grad, attended.flatten(1).T)
        torch.mm(weight[:, channels].T, flat_grad, out=attended.flatten(1))
        for part, piece in zip(parts, pieces, strict=True):
            columns = _columns(piece)
            _attend(piece, columns, in_rows.transpose(1, 2), in_columns.transpose(1, 2), grad_x[part])
            grad_in_rows.baddbmm_(_rows(piece).transpose(1, 2), _rows(x[part]))
            grad_in_columns.baddbmm_(columns.transpose(1, 2), _columns(x[part]))
    sums[5].add_(flat_grad.sum(1))
    grad_x.add_(grad)

    # Through the softmax: weight * (gradient - its mean under the weights).
    means = (in_rows * grad_in_rows).sum(2) + (in_columns * grad_in_columns).sum(2).T
    in_rows.mul_(grad_in_rows.sub_(means[..., None]))
    in_columns.mul_(grad_in_columns.sub_(means.T[..., None]))
    del grad_in_rows, grad_in_columns
    for index, (weight, other, rows, columns) in enumerate(
        (
            (query_weight, key, in_rows, in_columns),
            (key_weight, query, in_rows.transpose(1, 2), in_columns.transpose(1, 2)),
        )
    ):
        projected = torch.empty_like(other)
        _attend(other, _columns(other), rows, columns, projected)
        projected = projected.flatten(1)
        sums[2 * index].addmm_(projected, flat_x.T)
        sums[2 * index + 1].add_(projected.sum(1))
        flat_grad_x.addmm_(weight.T, projected)


def _project(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Project (C, H, W) to (D, H, W)."""
    return torch.addmm(bias[:, None], weight, x.flatten(1)).unflatten(1, x.shape[1:])


def _weights(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of each pixel's row, (H, W, W), and column, (W, H, H), from (D, H, W) maps.

    The joint softmax is computed from the softmax of each and the logarithms of their sums.
    """
    in_rows = torch.bmm(_rows(query).transpose(1, 2), _rows(key))
    in_columns = torch.bmm(_columns(query).transpose(1, 2), _columns(key))
    if query.dtype in (torch.float16, torch.bfloat16):
        in_rows, in_columns = in_rows.float(), in_columns.float()
    # The pixel itself is already in its row.
    in_columns.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    log_sums = torch.logaddexp(in_rows.logsumexp(2), in_columns.logsumexp(2).T)
    in_rows = in_rows.sub_(log_sums[..., None]).exp_()
    in_columns = in_columns.sub_(log_sums.T[..., None]).exp_()
    return in_rows.to(query.dtype), in_columns.to(query.dtype)


def _attend(maps: Tensor, columns: Tensor, in_rows: Tensor, in_columns: Tensor, result: Tensor) -> None:
    """Write sums of (C, H, W) maps, weighted by (H, W, W) and (W, H, H), to `result`."""
    _rows(result).copy_(torch.bmm(_rows(maps), in_rows.transpose(1, 2)))
    result.add_(torch.bmm(columns, in_columns.transpose(1, 2)).permute(1, 2, 0))


def _rows(maps: Tensor) -> Tensor:
    """Return a view (H, C, W) of (C, H, W), a layout that matrix libraries accept."""
    return maps.transpose(0, 1)


def _columns(maps: Tensor) -> Tensor:
    """Return a copy (W, C, H) of (C, H, W)."""
    return maps.permute(2, 0, 1).contiguous()


def _split(channels: slice, count: int) -> list[slice]:
    """Split a slice into about `count` slices."""
    step = max(1, -(-(channels.stop - channels.start) // count))
    starts = range(channels.start, channels.stop, step)
    return [slice(start, min(start + step, channels.stop)) for start in starts]
