"""Compute COCO's average precision for one class of non-overlapping segments from their intersections.

The arrays equal pycocotools' COCOeval (iouType "segm") bitwise: same matching, same ties, same sums.
Shape shorthand: A area ranges, T IoU thresholds, R recall thresholds, M detection limits, D detections and G
segments of an image.
"""

from typing import NamedTuple

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
AREA_RANGES = {"all": (0, 1e5**2), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e5**2)}
DETECTION_LIMITS = (1, 10, 100)
_AREA_BOUNDS = np.array(list(AREA_RANGES.values()))
_MATCH_THRESHOLDS = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None]


class ImageMatches(NamedTuple):
    """Detections of one image, at most 100, with the best score first.

    scores: (D,) float64; matched, ignored: (A, T, D) bool; num_segments: (A,) true segments not ignored.
    """

    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    num_segments: np.ndarray


def match_image(
    intersections: np.ndarray,
    segment_areas: np.ndarray,
    detection_areas: np.ndarray,
    scores: np.ndarray,
    most: np.ndarray | None = None,
    segment_sizes: np.ndarray | None = None,
) -> ImageMatches:
    """Match detections to true segments greedily, best score first, for every threshold and area range.

    Args:
        intersections: (G, D) pixels.
        segment_areas: (G,) pixels.
        detection_areas: (D,) pixels.
        scores: (D,) floats; equal scores keep their order.
        most: (G, D) floats, upper bounds of the IoUs; None for no bound.
        segment_sizes: (G,) areas that the area ranges are compared with; None for `segment_areas`.
    """
    order = np.argsort(-scores, kind="stable")[: DETECTION_LIMITS[-1]]
    scores, detection_areas, intersections = scores[order], detection_areas[order], intersections[:, order]
    segment_ignored = _outside(segment_areas if segment_sizes is None else segment_sizes)
    detection_outside = _outside(detection_areas)
    union = segment_areas[:, None] + detection_areas[None, :] - intersections
    detection, segment = np.nonzero((intersections >= IOU_THRESHOLDS[0] * union).T)
    iou = intersections[segment, detection] / union[segment, detection]
    if most is not None:
        iou = np.minimum(iou, most[:, order][segment, detection])
        kept = iou >= IOU_THRESHOLDS[0]
        detection, segment, iou = detection[kept], segment[kept], iou[kept]

    shape = (len(AREA_RANGES), len(IOU_THRESHOLDS), len(scores))
    matched, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    # Segments do not overlap, so they compete for a match only if one is exactly two halves: above IoU 1/2
    # there is only one candidate.
    matched[:, :, detection] = iou >= _MATCH_THRESHOLDS
    ignored[:, :, detection] = matched[:, :, detection] & segment_ignored[:, None, segment]
    detections, segments = detection.tolist(), segment.tolist()
    if len(set(detections)) < len(detections) or len(set(segments)) < len(segments):
        candidates = list(zip(detections, segments, strict=True))
        for a in range(len(AREA_RANGES)):
            matched[a, 0], ignored[a, 0] = False, False
            for one, other in _match_halves(candidates, segment_ignored[a]).items():
                matched[a, 0, one], ignored[a, 0, one] = True, segment_ignored[a, other]
    ignored |= ~matched & detection_outside[:, None, :]
    return ImageMatches(scores, matched, ignored, np.count_nonzero(~segment_ignored, axis=1))


def _outside(areas: np.ndarray) -> np.ndarray:
    """Return (A, len(areas)) bool: whether an area is outside the area range."""
    return (areas < _AREA_BOUNDS[:, :1]) | (areas > _AREA_BOUNDS[:, 1:])


def _match_halves(candidates: list[tuple[int, int]], segment_ignored: np.ndarray) -> dict[int, int]:
    """Match `candidates` (detection, segment) at IoU 1/2 for one area range: {detection: segment}.

    All candidates of one detection, or of one segment, have an IoU of exactly 1/2, so they are tied.
    """
    result: dict[int, int] = {}
    taken: set[int] = set()
    # COCO tries ignored segments only if no other segment was free ...
    for detection, segment in sorted(candidates, key=lambda pair: (pair[0], segment_ignored[pair[1]])):
        if segment in taken:
            continue
        held = result.get(detection)
        if held is not None:
            if segment_ignored[segment] and not segment_ignored[held]:
                continue
            taken.discard(held)  # ... and takes the last one on a tie
        result[detection] = segment
        taken.add(segment)
    return result


def accumulate(images: list[ImageMatches]) -> tuple[np.ndarray, np.ndarray]:
    """Return precision at every recall threshold and the final recall, as COCOeval.accumulate does.

    Args:
        images: in ascending order of image id, which orders equal scores.

    Returns:
        precision (T, R, A, M) and recall (T, A, M), -1 where all true segments are ignored.
    """
    sizes = (len(IOU_THRESHOLDS), len(AREA_RANGES), len(DETECTION_LIMITS))
    precision = -np.ones((sizes[0], len(RECALL_THRESHOLDS), *sizes[1:]))
    recall = -np.ones(sizes)
    if not images:
        return precision, recall
    num_segments = np.sum([image.num_segments for image in images], axis=0)
    rank = np.concatenate([np.arange(len(image.scores)) for image in images])
    scores = np.concatenate([image.scores for image in images])
    matched = np.concatenate([image.matched for image in images], axis=2)
    ignored = np.concatenate([image.ignored for image in images], axis=2)
    order = np.argsort(-scores, kind="stable")
    for m, limit in enumerate(DETECTION_LIMITS):
        kept = order[rank[order] < limit]
        for a in range(len(AREA_RANGES)):
            if num_segments[a] == 0:
                continue
            counted = ~ignored[a][:, kept]
            hit = matched[a][:, kept]
            true_positives = np.cumsum(hit & counted, axis=1).astype(float)
            false_positives = np.cumsum(~hit & counted, axis=1).astype(float)
            for t in range(len(IOU_THRESHOLDS)):
                precision[t, :, a, m], recall[t, a, m] = _curve(
                    true_positives[t], false_positives[t], num_segments[a]
                )
    return precision, recall


def _curve(
    true_positives: np.ndarray, false_positives: np.ndarray, num_segments: int
) -> tuple[np.ndarray, float]:
    sampled = np.zeros(len(RECALL_THRESHOLDS))
    if not len(true_positives):
        return sampled, 0.0
    recall = true_positives / num_segments
    precision = true_positives / (false_positives + true_positives + np.spacing(1))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    positions = np.searchsorted(recall, RECALL_THRESHOLDS, side="left")
    reached = positions < len(envelope)
    sampled[reached] = envelope[positions[reached]]
    return sampled, recall[-1]


def summarize(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """Return COCO's twelve metrics in percent, with Detectron2's names; NaN without any value.

    Arrays of several classes, (T, R, K, A, M) and (T, K, A, M), are averaged over the K classes that occur.

    AP and AR use all thresholds and 100 detections, except: AP50, AP75 (IoU threshold), APs, APm, APl, ARs,
    ARm, ARl (areas below 32², up to 96², above), AR1, AR10, AR100 (number of detections).
    """
    fifty, seventy_five = 0, 5
    metrics = {
        "AP": _mean(precision[..., 0, -1]),
        "AP50": _mean(precision[fifty, ..., 0, -1]),
        "AP75": _mean(precision[seventy_five, ..., 0, -1]),
    }
    metrics |= {f"AP{name}": _mean(precision[..., a, -1]) for a, name in ((1, "s"), (2, "m"), (3, "l"))}
    metrics |= {f"AR{limit}": _mean(recall[..., 0, m]) for m, limit in enumerate(DETECTION_LIMITS)}
    metrics |= {f"AR{name}": _mean(recall[..., a, -1]) for a, name in ((1, "s"), (2, "m"), (3, "l"))}
    return metrics


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(100 * np.mean(values)) if len(values) else float("nan")
