"""Segments of an id map and the overlap of two maps, for panoptic and entity evaluation.

Shape shorthand: S segments of an image, H W pixels.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from segzoo.utils.errors import InputError

from .base import to_numpy
from .boundaries import map_boundaries
from .histogram import pair_histogram


class SegmentMap(NamedTuple):
    """An id map: `ids` (H, W) integers with 0 for none, and one dict per segment with at least "id"."""

    ids: np.ndarray
    segments: list[dict]


class Overlap(NamedTuple):
    """Pixel counts of pairs of ids: `counts[row[true id], column[predicted id]]`, int64; both have id 0."""

    counts: np.ndarray
    row: dict[int, int]
    column: dict[int, int]


def take_segment_map(
    output: tuple[torch.Tensor | np.ndarray, list[dict] | None], file_name: str
) -> SegmentMap:
    """Copy a model's (id map, segments_info) to the CPU, and raise InputError if ids are not unique."""
    ids, segments = output
    if segments is None:
        raise InputError(f"{file_name}: the prediction has an id map but no segments_info")
    listed = [segment["id"] for segment in segments]
    if len(set(listed)) < len(listed) or 0 in listed:
        raise InputError(
            f"{file_name}: predicted segment ids must be unique and not 0 (none), found {sorted(listed)}"
        )
    return SegmentMap(to_numpy(ids), segments)


def overlap(file_name: str, ground_truth: SegmentMap, prediction: SegmentMap) -> Overlap:
    """Count the pixels that each true and each predicted segment share.

    Raises:
        InputError: the predicted id map has an id that its list lacks, or vice versa.
    """
    # Id 0 is always first: void and none.
    true_ids = sorted({0, *(segment["id"] for segment in ground_truth.segments)})
    predicted_ids = sorted({0, *(segment["id"] for segment in prediction.segments)})
    counts = pair_histogram(ground_truth.ids, prediction.ids, np.array(true_ids), np.array(predicted_ids))
    area = counts.sum(axis=0)
    if area[-1]:
        unknown = np.setdiff1d(prediction.ids, predicted_ids)
        raise InputError(f"{file_name}: segment {unknown[0]} is in the predicted id map but not in its list")
    empty = np.flatnonzero(area[1:-1] == 0)
    if len(empty):
        missing = predicted_ids[1 + empty[0]]
        raise InputError(f"{file_name}: segment {missing} is in the predicted list but not in its id map")
    return Overlap(
        counts,
        {segment_id: index for index, segment_id in enumerate(true_ids)},
        {segment_id: index for index, segment_id in enumerate(predicted_ids)},
    )


def boundary_overlap(
    ground_truth: SegmentMap, prediction: SegmentMap, shared: Overlap, width: int
) -> np.ndarray:
    """Count the pixels that the boundaries of each true and each predicted segment share.

    For id 0 (void and none) all pixels are counted, not its boundary.

    Args:
        ground_truth, prediction: the two maps.
        shared: result of `overlap`.
        width: width of the boundaries in pixels.

    Returns:
        int64, in the shape of `shared.counts`; the last row and column count pixels inside segments.
    """
    truth, predicted = (
        np.where(map_boundaries(ids, width) | (ids == 0), ids, -1)
        for ids in (np.asarray(one.ids, np.int32) for one in (ground_truth, prediction))
    )
    return pair_histogram(truth, predicted, np.array(list(shared.row)), np.array(list(shared.column)))


def image_entry(dataset_dict: dict, png: Path | str, segments: list[dict]) -> dict:
    """Return the annotation of an image in a COCO panoptic JSON."""
    return {"image_id": dataset_dict["image_id"], "file_name": str(png), "segments_info": segments}
