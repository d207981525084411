"""Labels of class scores that are resized, without the resized scores in memory.

Shape shorthand: K classes, h w pixels of the scores, H W pixels of the labels.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from segzoo.layers.resize import resize
from segzoo.utils.compiled import load_loops

Size = tuple[int, int]

# Largest number of neighboring rows or columns of the scores that a resized score may depend on. Two after
# one resizing, three after a second one that does not shrink much.
_MAX_TAPS = 4


def resized_labels(
    scores: Tensor, size: Size, image_size: Size, output_size: Size, align_corners: bool
) -> Tensor | None:
    """Return the best class of scores that are resized to `size`, cropped and resized to `output_size`.

    Both resizings are bilinear, and applied as one. On a tie the first class wins.

    Args:
        scores: (K, h, w) float32 on a CPU.
        image_size: (height, width) of the upper left part that is kept after the first resizing.

    Returns:
        (H, W) int16 class indices; None where this form is not available: on another device or of another
        type, without numba, or if the scores are shrunk too much.
    """
    if scores.device.type != "cpu" or scores.dtype != torch.float32:
        return None
    loops = load_loops("segzoo.modeling.label_loops")
    if loops is None:
        return None
    axes = []
    for source, full, kept, target in zip(scores.shape[-2:], size, image_size, output_size, strict=True):
        taps = _taps(source, full, kept, target, align_corners)
        if taps is None:
            return None
        axes.append(taps)
    (rows, row_weights), (columns, column_weights) = axes
    labels = np.empty(tuple(output_size), np.int16)
    run = partial(
        loops.best_of_resized,
        scores.detach().contiguous().numpy(),
        *(rows, row_weights, columns, np.ascontiguousarray(column_weights.T)),
    )
    threads = min(torch.get_num_threads(), output_size[0])
    bounds = [index * output_size[0] // threads for index in range(threads + 1)]
    if threads == 1:
        run(*bounds, labels)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda start, stop: run(start, stop, labels), bounds[:-1], bounds[1:]))
    return torch.from_numpy(labels)


def _taps(
    source: int, full: int, kept: int, target: int, align_corners: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return how each result of an axis depends on the source.

    Returns:
        (target,) int64 first place in the source, and the weights of the T places from there on, (target, T)
        float32; None if T would be larger than `_MAX_TAPS`.
    """
    # Weights of `resize`, from unit vectors: their first and last nonzero entries, then those between.
    matrix = _resized_axis(
        _resized_axis(torch.eye(source), full, align_corners)[:kept], target, align_corners
    )
    used = matrix != 0
    first = used.int().argmax(1)
    last = source - 1 - used.flip(1).int().argmax(1)
    count = int((last - first).max()) + 1
    if count > _MAX_TAPS:
        return None
    first = first.clamp(max=source - count)
    return first.numpy(), matrix.gather(1, first[:, None] + torch.arange(count)).numpy()


def _resized_axis(columns: Tensor, length: int, align_corners: bool) -> Tensor:
    """Resize the first axis of (n, m)."""
    size: Sequence[int] = (length, columns.shape[1])
    return resize(columns[None, None], size, align_corners)[0, 0]
