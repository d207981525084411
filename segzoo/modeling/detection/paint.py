"""Give every pixel to the first of some ranked masks that covers it, without forming the masks at full size.

Shape shorthand: K masks, h w size of the masks, H W size of the result.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segzoo.utils.compiled import load_loops

# Source pixels that determine a pixel of the result, along one axis.
_TAPS = 3
# Bound of the differences in rounding between values in [0, 1] that are resized in one step or in two.
_MARGIN = np.float32(1e-6)
# Pixels near the threshold for which there is place at first.
_UNSURE = 4096


class AxisWeights(NamedTuple):
    """A resizing along one axis: each result is a weighted sum of three neighboring source pixels.

    Attributes:
        first: (n,) int64, rising: the first source pixel of each result.
        weights: (n, 3) float32: the weights of that source pixel and the next two; 0 where there is none.
        source: number of source pixels.
    """

    first: np.ndarray
    weights: np.ndarray
    source: int


class Painting(NamedTuple):
    """What each of K ranked masks won.

    Attributes:
        labels: (H, W) int32, i + 1 where the i-th mask is the first that covers a pixel, 0 for none.
        areas: K numbers of pixels.
        means: K mean values of the resized masks over these pixels; 0 without any.
        boxes: first and last column and row of these pixels, [x0, y0, x1, y1]; None without any.
    """

    labels: Tensor
    areas: list[int]
    means: list[float]
    boxes: list[list[int] | None]


def paint_ranked(
    masks: Tensor,
    rows: AxisWeights,
    columns: AxisWeights,
    resized: Callable[[Tensor], Tensor],
    threshold: float = 0.5,
) -> Painting:
    """Return which of the masks, resized, is the first above the threshold at each pixel.

    On a CPU only pixels near a mask that none has won yet are computed, and those within rounding of the
    threshold are decided by `resized`; else one mask at a time is resized. The result is the same.

    Args:
        masks: (K, h, w) float in [0, 1], best first.
        rows, columns: the resizing.
        resized: computes it: (h, w) to (H, W).
        threshold: at least 0.
    """
    masks = masks.detach().float().contiguous()
    applies = masks.device.type == "cpu" and min(masks.shape[1:]) >= _TAPS
    loops = load_loops("segzoo.modeling.detection.loops") if applies else None
    if loops is None:
        return _plain(masks, (len(rows.first), len(columns.first)), resized, threshold)
    labels = np.zeros((len(rows.first), len(columns.first)), np.int32)
    starts = np.searchsorted(columns.first, np.arange(columns.source - 1))
    axes = rows.first, rows.weights, starts, columns.weights
    result = Painting(torch.from_numpy(labels), [], [], [])
    for index, mask in enumerate(masks):
        limits = np.float32(threshold), _MARGIN
        unsure = np.empty(_UNSURE, np.int64)
        arguments = mask.numpy(), *axes, *limits, index + 1, labels
        count, area, total, *box = loops.paint_mask(*arguments, unsure)
        if count > len(unsure):
            # The second time only these pixels are left.
            unsure = np.empty(count, np.int64)
            loops.paint_mask(*arguments, unsure)
        if count:
            values = resized(mask).flatten().numpy()[unsure[:count]]
            won = unsure[:count][values > threshold]
            labels.flat[won] = index + 1
            area, total = area + len(won), total + float(values[values > threshold].sum())
            if len(won):
                y, x = np.divmod(won, labels.shape[1])
                box = [min(box[0], x.min()), min(box[1], y.min()), max(box[2], x.max()), max(box[3], y.max())]
        result.areas.append(area)
        result.means.append(total / area if area else 0.0)
        result.boxes.append([int(side) for side in box] if area else None)
    return result


def _plain(
    masks: Tensor, size: tuple[int, int], resized: Callable[[Tensor], Tensor], threshold: float
) -> Painting:
    """Paint mask by mask at full size."""
    result = Painting(torch.zeros(size, dtype=torch.int32, device=masks.device), [], [], [])
    for index, mask in enumerate(masks):
        values = resized(mask)
        won = (values > threshold) & (result.labels == 0)
        result.labels[won] = index + 1
        area = int(won.sum())
        result.areas.append(area)
        result.means.append(values[won].mean().item() if area else 0.0)
        result.boxes.append(_extremes(won) if area else None)
    return result


def _extremes(mask: Tensor) -> list[int]:
    """Return first and last column and row, [x0, y0, x1, y1], of an (H, W) bool mask with pixels."""
    (columns,), (rows,) = (mask.any(axis).nonzero(as_tuple=True) for axis in (0, 1))
    return [int(end) for end in (columns[0], rows[0], columns[-1], rows[-1])]


def aligned_weights(source: int, factor: int, image: int, output: int) -> AxisWeights:
    """Return the weights of an aligned upsampling, a crop and an ordinary bilinear resize, along one axis.

    The upsampling keeps pixels at their positions: pixel k of the source is pixel `factor` k + `factor` // 2,
    and those between two are interpolated.

    Args:
        source: number of source pixels.
        factor: of the upsampling.
        image: number of pixels after the crop, at most `factor` `source`.
        output: number of pixels of the result.
    """
    places, shares = _resize_weights(image, output)
    positions = np.maximum(places - factor // 2, 0) / factor
    cells = np.floor(positions).astype(np.int64)
    used = np.where(shares > 0, cells, source)
    first = np.clip(used.min(axis=1), 0, max(source - _TAPS, 0))
    weights = np.zeros((output, _TAPS))
    for offset, parts in ((0, 1 - positions + cells), (1, positions - cells)):
        # A pixel after the last one has the last one's value.
        taps = np.minimum(cells + offset, source - 1) - first[:, None]
        for tap in range(_TAPS):
            weights[:, tap] += (shares * parts * (taps == tap)).sum(axis=1)
    return AxisWeights(first, weights.astype(np.float32), source)


def _resize_weights(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels, (target, 3) int64, and their weights, (target, 3), of `F.interpolate` along an axis.

    Its positions in float32 are off by up to 1e-4 of a pixel, so the weights are read from its results: each
    of three signals is 1 at every third pixel.
    """
    signals = torch.eye(3).repeat(1, source // 3 + 1)[:, :source]
    found = F.interpolate(signals[None, :, :, None], (target, 1), mode="bilinear", align_corners=False)
    weights = found[0, :, :, 0].T.double().numpy()
    center = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    near = np.floor(center).astype(np.int64)
    # Two neighboring pixels have a weight: those around the position, or the next beyond the closer one.
    beyond = np.where(center - near < 0.5, near - 1, near + 2)
    pixels = np.stack((near, near + 1, beyond), axis=1)
    weights = np.take_along_axis(weights, pixels % 3, axis=1)
    return pixels.clip(0, source - 1), weights
