"""Compute joint histograms of ground truth and prediction, from which mIoU, PQ and entity AP follow.

Each function runs compiled if numba is installed and else in numpy (torch for the argmax), with the same
result. Shape shorthand: K classes, S segments of an image, H W pixels.
"""

from types import ModuleType

import numpy as np
import torch

from segzoo.utils.compiled import load_loops

# Pixels per block of the argmax: a buffer of 32 KiB fits the first-level cache of common processors.
_ARGMAX_BLOCK = 4096


def compiled_kernels() -> ModuleType | None:
    """Return the compiled loops, or None if numba is missing or does not support the installed numpy."""
    return load_loops("segzoo.evaluation.kernels")


def argmax_labels(scores: torch.Tensor) -> np.ndarray:
    """Return the class with the largest score per pixel, as `scores.argmax(dim=0)` on a CPU.

    Args:
        scores: (K, H, W) floats on any device. On a tie the first class wins; NaN wins over every number.

    Returns:
        (H, W) uint8, or uint16 for K > 256.
    """
    num_classes, height, width = scores.shape
    dtype = label_dtype(num_classes)
    compiled = compiled_kernels()
    if compiled is None or scores.device.type != "cpu":
        # torch hardly supports uint16, so copy from the device as int32.
        labels = scores.argmax(dim=0).to(torch.uint8 if dtype == np.uint8 else torch.int32)
        return labels.cpu().numpy().astype(dtype, copy=False)
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.float()  # exact for the 16-bit types, which numpy does not all have
    planes = scores.detach().contiguous().numpy().reshape(num_classes, height * width)
    classes: np.ndarray = np.empty(height * width, dtype)
    compiled.first_maximum(planes, np.empty(_ARGMAX_BLOCK, planes.dtype), classes)
    return classes.reshape(height, width)


def label_dtype(num_classes: int) -> type:
    """Return the smaller of uint8 and uint16 that holds the labels 0 .. num_classes - 1."""
    return np.uint8 if num_classes <= 256 else np.uint16


def label_histogram(
    prediction: np.ndarray, ground_truth: np.ndarray, num_classes: int, ignore_label: int
) -> np.ndarray:
    """Count the pixels of every pair (predicted class, true class), in Detectron2's orientation.

    Args:
        prediction: (H, W) uint8 or uint16 in [0, K).
        ground_truth: (H, W) uint8 or uint16 in [0, K), or `ignore_label`.

    Returns:
        (K + 1, K + 1) int64: rows are predictions, columns the ground truth; column K counts the ignored
        pixels and row K is empty.

    Raises:
        ValueError: the maps have different sizes, or a label is out of range; the message names the sizes or
            the label, without the file.
    """
    _check_same_shape("prediction", prediction, "ground truth", ground_truth)
    column_of = np.full(np.iinfo(ground_truth.dtype).max + 1, -1, np.int32)
    column_of[:num_classes] = np.arange(num_classes)
    if ignore_label < len(column_of):
        column_of[ignore_label] = num_classes
    rows, columns = prediction.reshape(-1), ground_truth.reshape(-1)
    table = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    compiled = compiled_kernels()
    if compiled is not None:
        invalid = compiled.count_labels(rows, columns, column_of, table[:num_classes])
    else:
        target = column_of[columns]
        outside = np.flatnonzero((rows >= num_classes) | (target < 0))
        invalid = outside[0] if len(outside) else -1
        if invalid < 0:
            pairs = rows.astype(np.int64) * (num_classes + 1) + target
            table += np.bincount(pairs, minlength=table.size).reshape(table.shape)
    if invalid >= 0:
        label, name, extra = rows[invalid], "predicted label", ""
        if label < num_classes:
            label, name, extra = (
                columns[invalid],
                "ground-truth label",
                f" and is not the ignore label {ignore_label}",
            )
        raise ValueError(f"{name} {label} is outside [0, {num_classes}){extra}")
    return table


def pair_histogram(
    first: np.ndarray, second: np.ndarray, first_ids: np.ndarray, second_ids: np.ndarray
) -> np.ndarray:
    """Count the pixels of every pair of ids of two id maps.

    Args:
        first, second: (H, W) integer id maps of the same size.
        first_ids, second_ids: (S1,), (S2,) the ids to count, sorted and unique.

    Returns:
        (S1 + 1, S2 + 1) int64; the last row and column count ids that are not listed.

    Raises:
        ValueError: the maps have different sizes.
    """
    _check_same_shape("first map", first, "second map", second)
    first, second = (np.ascontiguousarray(id_map, np.int32).reshape(-1) for id_map in (first, second))
    first_ids, second_ids = np.asarray(first_ids, np.int32), np.asarray(second_ids, np.int32)
    table = np.zeros((len(first_ids) + 1, len(second_ids) + 1), np.int64)
    compiled = compiled_kernels()
    if compiled is not None:
        compiled.count_pairs(first, second, first_ids, second_ids, table)
        return table
    pairs = _positions(first_ids, first) * table.shape[1] + _positions(second_ids, second)
    return np.bincount(pairs, minlength=table.size).reshape(table.shape).astype(np.int64, copy=False)


def _check_same_shape(name: str, one: np.ndarray, other_name: str, other: np.ndarray) -> None:
    # Compiled loops would read beyond the smaller one.
    if one.shape != other.shape:
        raise ValueError(f"the {name} has shape {one.shape}, but the {other_name} {other.shape}")


def _positions(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    if not len(ids):
        return np.zeros(values.shape, np.int64)
    positions = np.searchsorted(ids, values)
    found = ids[np.minimum(positions, len(ids) - 1)] == values
    return np.where(found, positions, len(ids))


def ids_from_rgb(rgb: np.ndarray) -> np.ndarray:
    """Return the segment ids of a COCO panoptic PNG, R + 256 G + 65536 B: (H, W, 3) uint8 -> (H, W) int32."""
    height, width, _ = rgb.shape
    compiled = compiled_kernels()
    if compiled is None:
        return rgb[..., 0] + rgb[..., 1].astype(np.int32) * 256 + rgb[..., 2].astype(np.int32) * 65536
    ids = np.empty(height * width, np.int32)
    compiled.ids_from_rgb(np.ascontiguousarray(rgb).reshape(-1, 3), ids)
    return ids.reshape(height, width)
