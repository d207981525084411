"""Averages of a feature map over a coarse grid, projected and resized to the map."""

import torch
from detectron2.layers import Conv2d
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from segzoo.layers.resize import resize
from segzoo.utils.errors import InputError


def project_average(x: Tensor, side: int, projection: Conv2d, align_corners: bool) -> Tensor:
    """Average over side x side cells, project the averages, and resize them to the size of the map.

    Args:
        x: (N, C, h, w) float.
        side: number of cells per side; 1: the mean of the map.
        projection: convolution of the averages, a `conv_norm_act`.
        align_corners: for the bilinear resizing.

    Returns:
        (N, C', h, w), C' the output channels of the projection.

    Raises:
        InputError: see `check_batch_norm`.
    """
    averages = F.adaptive_avg_pool2d(x, side)
    check_batch_norm(averages, projection)
    projected = projection(averages)
    if side == 1:  # equal to the resized map
        return projected.expand(-1, -1, *x.shape[-2:])
    return resize(projected, x.shape[-2:], align_corners)


def check_batch_norm(maps: Tensor, convolution: Conv2d) -> None:
    """Check that the batch norm after a convolution of pooled maps has more than one value per channel.

    Args:
        maps: (N, C, h, w) maps of this process; `convolution` keeps their size.
        convolution: a `conv_norm_act`.

    Raises:
        InputError: there is one value per channel in training, so the variance is 0.
    """
    norm = convolution.norm
    values = len(maps) * maps.shape[-2] * maps.shape[-1]
    if values > 1 or not isinstance(norm, _BatchNorm) or not norm.training:
        return
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if "Sync" in type(norm).__name__ and distributed and torch.distributed.get_world_size() > 1:
        return
    raise InputError(
        "SOLVER.IMS_PER_BATCH gives this process 1 image, and the batch norm of the head's image pooling "
        "needs at least 2; raise it, use several GPUs with MODEL.SEM_SEG_HEAD.NORM SyncBN, or GN"
    )
