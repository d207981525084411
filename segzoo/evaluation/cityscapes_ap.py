"""Average precision of instances by Cityscapes' rules (its script evalInstanceLevelSemanticLabeling).

A prediction is a true positive if its IoU with an instance of its class exceeds a threshold; if several do so
for one instance, only the most confident is, and the others are false positives. A prediction without such an
instance is ignored if it matches a group or a small instance, or if a larger share of it than the threshold
is on void, groups and small instances. Precision is averaged over recall by steps, without interpolation.

Shape shorthand: G true regions, n predictions, P overlapping pairs of both, R regions of a label file, T
thresholds, H W pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from segzoo.utils.lazy_masks import LazyMasks, planes

from .boundaries import map_boundaries, mask_boundary

IOU_THRESHOLDS = np.arange(0.5, 1.0, 0.05)
# Smaller true instances are ignored, in pixels.
MIN_AREA = 100


class Regions(Protocol):
    """Ground truth of an image, as returned by `load_regions` of a dataset's metadata.

    Attributes:
        indices: (H, W) in [0, R).
        classes: (R,) class index, or the ignore label.
        is_instance: (R,) bool, whether a region is a single object; other regions of things are groups.
    """

    indices: np.ndarray
    classes: np.ndarray
    is_instance: np.ndarray


class Matches(NamedTuple):
    """Matches of an image, or of many, without pixels.

    Attributes:
        truth_classes, truth_areas, truth_is_group: (G,), for the regions of thing classes.
        classes, scores, areas, void_areas: (n,), for the non-empty predictions; void_areas counts their
            pixels on void.
        pairs: (P, 3) int64: prediction, true region of the same class, and the number of shared pixels, > 0.
        ious: (P,) float64, IoUs of the pairs.
    """

    truth_classes: np.ndarray
    truth_areas: np.ndarray
    truth_is_group: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    areas: np.ndarray
    void_areas: np.ndarray
    pairs: np.ndarray
    ious: np.ndarray


def match_instances(
    masks: np.ndarray | LazyMasks,
    scores: np.ndarray,
    classes: np.ndarray,
    regions: Regions,
    is_thing: Sequence[bool],
    ignore_label: int,
    boundary: int | None = None,
) -> Matches:
    """Compare an image's predictions with its ground truth, one mask at a time.

    Args:
        masks: (n, H, W) bool, visited one after the other.
        scores, classes: (n,).
        regions: the ground truth.
        is_thing: (K,) by class index.
        ignore_label: class of void regions.
        boundary: width in pixels for boundary IoU, where a pair's IoU is the minimum of mask and boundary
            IoU, and is no pair if its boundaries are disjoint; None for mask IoU.
    """
    number = len(regions.classes)
    all_areas = np.bincount(regions.indices.ravel(), minlength=number)
    is_void = (regions.classes == ignore_label) & ~regions.is_instance
    truth = np.flatnonzero(np.append(is_thing, False)[np.minimum(regions.classes, len(is_thing))])
    position = np.full(number, -1)
    position[truth] = np.arange(len(truth))
    kept: list[int] = []
    areas, void_areas, pairs, ious = [], [], [], []
    edges = None if boundary is None else map_boundaries(regions.indices, boundary)
    edge_areas = None if edges is None else np.bincount(regions.indices[edges], minlength=number)
    for index, (mask, category) in enumerate(zip(planes(masks), classes, strict=True)):
        covered = _covered(mask, regions.indices, number)
        if not covered.any():
            continue
        iou = covered / (all_areas + covered.sum() - covered)
        if boundary is not None and edges is not None and edge_areas is not None:
            edge = mask_boundary(mask, boundary)
            met = _covered(edge & edges, regions.indices, number)
            iou = np.minimum(iou, met / (edge_areas + np.count_nonzero(edge) - met))
        shared = np.flatnonzero((iou > 0) & (regions.classes == category) & (position >= 0))
        pairs.append(np.stack([np.full(len(shared), len(kept)), position[shared], covered[shared]], axis=1))
        ious.append(iou[shared])
        kept.append(index)
        areas.append(covered.sum())
        void_areas.append(covered[is_void].sum())
    return Matches(
        truth_classes=regions.classes[truth],
        truth_areas=all_areas[truth],
        truth_is_group=~regions.is_instance[truth],
        classes=np.asarray(classes, np.int64)[kept],
        scores=np.asarray(scores, np.float64)[kept],
        areas=np.array(areas, np.int64),
        void_areas=np.array(void_areas, np.int64),
        pairs=np.concatenate([np.zeros((0, 3), np.int64), *pairs]),
        ious=np.concatenate([np.zeros(0), *ious]),
    )


def _covered(mask: np.ndarray, indices: np.ndarray, number: int) -> np.ndarray:
    """Return (R,) numbers of pixels of each region under a mask, counted within its bounding box."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return np.zeros(number, np.int64)
    band = np.s_[rows[0] : rows[-1] + 1]
    columns = np.flatnonzero(mask[band].any(axis=0))
    window = (band, np.s_[columns[0] : columns[-1] + 1])
    return np.bincount(indices[window][mask[window]], minlength=number)


def join_matches(parts: Sequence[Matches]) -> Matches:
    """Concatenate the matches of many images."""
    lengths = [(len(one.classes), len(one.truth_classes), 0) for one in parts]
    offsets = np.cumsum([(0, 0, 0), *lengths], axis=0)[:-1]
    shifted = [one._replace(pairs=one.pairs + offset) for one, offset in zip(parts, offsets, strict=True)]
    return Matches(*(np.concatenate(arrays) for arrays in zip(*shifted, strict=True)))


def class_precisions(matches: Matches, category: int) -> np.ndarray:
    """Return (T,) average precision of a class in [0, 1], at each of `IOU_THRESHOLDS`.

    NaN if all instances of the class are ignored. 0 if there is no prediction, or if all are ignored, for
    which the official script returns no value.
    """
    is_small = matches.truth_areas < MIN_AREA
    counts = (matches.truth_classes == category) & ~matches.truth_is_group & ~is_small
    predicted = matches.classes == category
    if not counts.any():
        return np.full(len(IOU_THRESHOLDS), np.nan)
    chosen = predicted[matches.pairs[:, 0]]
    prediction, truth, shared = matches.pairs[chosen].T
    overlap = matches.ious[chosen]
    # A small group counts for both reasons, as in the official script.
    reasons = matches.truth_is_group.astype(np.int64) + is_small
    ignored = matches.void_areas + np.bincount(prediction, shared * reasons[truth], len(predicted))
    ignored_share = ignored / matches.areas
    precisions = []
    for threshold in IOU_THRESHOLDS:
        hit = overlap > threshold
        is_wrong = predicted & (ignored_share <= threshold)
        is_wrong[prediction[hit]] = False
        scored = hit & counts[truth]
        best, others = _best_of_each(truth[scored], matches.scores[prediction[scored]])
        wrong = np.append(others, matches.scores[is_wrong])
        precisions.append(average_precision(best, wrong, np.count_nonzero(counts) - len(best)))
    return np.array(precisions)


def _best_of_each(groups: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest score of each group, and all other scores."""
    order = np.lexsort((scores, groups))
    groups, scores = groups[order], scores[order]
    is_last = np.ones(len(groups), dtype=bool)
    is_last[:-1] = groups[1:] != groups[:-1]
    return scores[is_last], scores[~is_last]


def average_precision(right: np.ndarray, wrong: np.ndarray, missed: int) -> float:
    """Return the area under the precision-recall curve, by steps that reach half-way to both neighbors.

    Args:
        right, wrong: scores of true and of false positives; equal scores are added together.
        missed: number of false negatives.
    """
    scores = np.append(right, wrong)
    if not len(scores):
        return 0.0
    order = np.argsort(scores)
    _, first = np.unique(scores[order], return_index=True)
    right_below = np.append(0, np.cumsum(order < len(right)))[first]
    right_above = len(right) - right_below
    precision = right_above / (len(scores) - first)
    recall = right_above / (len(right) + missed)
    # The curve ends at recall 0 with precision 1.
    precision, recall = np.append(precision, 1.0), np.append(recall, 0.0)
    before, after = np.append(recall[0], recall[:-1]), np.append(recall[1:], 0.0)
    return float(np.dot(precision, 0.5 * before - 0.5 * after))
