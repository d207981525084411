"""Steps on boxes of GluonCV's two-stage detectors: offsets, proposals, samples of both stages, detections.

Shape shorthand: B boxes, R regions, K classes, T true boxes.
"""

import torch
from detectron2.layers import nms
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from torch import Tensor

# GluonCV's bound of the logarithm of a change of a side; Detectron2's is log(1000 / 16) = 4.135.
SCALE_CLAMP = 4.42
# The box that fills up missing proposals.
MISSING = -1.0
# How far an anchor's IoU may be from an object's best to be positive nevertheless.
_TIE = 1.2e-7


def box_coder(weights: tuple[float, float, float, float]) -> Box2BoxTransform:
    """Return the transform between boxes and offsets; `weights` are the inverse standard deviations."""
    return Box2BoxTransform(weights=weights, scale_clamp=SCALE_CLAMP)


def select_proposals(
    boxes: Tensor,
    scores: Tensor,
    size: tuple[int, int],
    *,
    min_side: float,
    pre_nms: int,
    post_nms: int,
    nms_thresh: float,
) -> tuple[Tensor, Tensor]:
    """Select the proposals of an image from the boxes of all levels together.

    Args:
        boxes: (B, 4) x0, y0, x1, y1.
        scores: (B,) probabilities.
        size: (height, width) of the image, where boxes are cut.
        min_side: sides, counted with the pixel of both ends, may not be smaller.
        pre_nms, post_nms: numbers of boxes before and after non-maximum suppression at `nms_thresh`.

    Returns:
        (post_nms, 4) boxes by descending score and (post_nms,) scores; -1 for those that are missing.
    """
    height, width = size
    limits = boxes.new_tensor([width, height, width, height])
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    small = (boxes[:, 2:] - boxes[:, :2] + 1 < min_side).any(1)
    scores = scores.masked_fill(small, MISSING)
    scores, order = scores.sort(descending=True, stable=True)
    order, scores = order[:pre_nms], scores[:pre_nms]
    order, scores = order[scores > 0], scores[scores > 0]
    kept = nms(boxes[order], scores, nms_thresh)[:post_nms]
    chosen = boxes.new_full((post_nms, 4), MISSING)
    chosen_scores = scores.new_full((post_nms,), MISSING)
    chosen[: len(kept)], chosen_scores[: len(kept)] = boxes[order[kept]], scores[kept]
    return chosen, chosen_scores


def detect(
    boxes: Tensor,
    probabilities: Tensor,
    size: tuple[int, int],
    *,
    score_thresh: float,
    nms_thresh: float,
    max_detections: int,
) -> Instances:
    """Return the detections of an image by descending score, with boxes that may leave the image.

    Args:
        boxes: (R, K, 4), one of each class.
        probabilities: (R, K).
        size: (height, width) of the image.
        score_thresh: lowest probability, exclusive.
        nms_thresh: of non-maximum suppression within a class.
        max_detections: of all classes.
    """
    found = []
    for category in range(probabilities.shape[1]):
        of_class = (probabilities[:, category] > score_thresh).nonzero()[:, 0]
        if len(of_class):
            kept = of_class[nms(boxes[of_class, category], probabilities[of_class, category], nms_thresh)]
            found.append(torch.stack((kept, torch.full_like(kept, category)), 1))
    regions, classes = (torch.cat(found) if found else boxes.new_zeros((0, 2), dtype=torch.int64)).T
    order = probabilities[regions, classes].sort(descending=True, stable=True).indices
    order = order[: min(max_detections, len(boxes))]
    regions, classes = regions[order], classes[order]
    result = Instances(size)
    result.pred_boxes = Boxes(boxes[regions, classes])
    result.scores = probabilities[regions, classes]
    result.pred_classes = classes
    return result


def label_anchors(ious: Tensor, inside: Tensor, positive: float, negative: float) -> tuple[Tensor, Tensor]:
    """Return the true box (B,) int64 and label (B,) int64 of each anchor: 1, 0 or, if ignored, -1.

    Args:
        ious: (T, B) of anchors with true boxes.
        inside: (B,) bool; other anchors are ignored.
        positive, negative: an anchor is positive from the first on, and negative below the second. Between
            them it is positive if no other one overlaps a true box more.
    """
    labels = torch.full(inside.shape, -1, dtype=torch.int64, device=inside.device)
    if not len(ious):
        labels[inside] = 0
        return torch.zeros_like(labels), labels
    ious = ious.masked_fill(~inside, -1)
    best, matched = ious.max(0)
    most = ious.max(1, keepdim=True).values
    labels[(ious >= most - _TIE).any(0)] = 1
    labels[best >= positive] = 1
    labels[best < negative] = 0
    labels[~inside] = -1
    return matched, labels


def sample_regions(positive: Tensor, order: Tensor, count: int, fraction: float) -> Tensor:
    """Draw regions for the second stage, some of them twice; returns their indices.

    The first `fraction` of the draws, F, takes positive regions, then negative ones. The others leave out
    the first F regions of the permutation and take the negative ones of the rest, then positive ones if these
    run out. So only positive regions are drawn twice, as on GPUs in GluonCV, where ties keep their order.

    Args:
        positive: (R,) bool.
        order: (R,) a permutation, in which regions are drawn.
        count: number of draws.
    """
    positives, negatives = order[positive[order]], order[~positive[order]]
    first = round(count * fraction)
    chosen = torch.cat((positives, negatives))[:first]
    rest = order[first:]
    others = torch.cat((rest[~positive[rest]], rest[positive[rest]]))[: count - first]
    return torch.cat((chosen, others))


def learned_samples(positive: Tensor, areas: Tensor, count: int) -> Tensor:
    """Return which samples have a box and a mask to learn, (S,) bool: the `count` smallest positive ones.

    Args:
        positive: (S,) bool.
        areas: (S,), of the samples' boxes.
    """
    found = positive.nonzero()[:, 0]
    found = found[areas[found].argsort(stable=True)[:count]]
    return torch.zeros_like(positive).index_fill(0, found, True)
