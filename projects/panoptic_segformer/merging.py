"""Results from the masks of one image: panoptic, entity, instance and semantic (section 3.6 of the paper).

Masks of things and stuff are resized from the finest level to the result in one bilinear step. A pixel
belongs to a mask where its value is above one half. The score of a mask is its class probability times the
square of the mean value over its pixels.

Shape shorthand: n masks of things, U masks of stuff, K classes, h w size of a mask, H W size of the result.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from detectron2.structures import Boxes
from torch import Tensor

from segzoo.layers.runtime import without_autocast
from segzoo.modeling.batch import Sizes
from segzoo.modeling.lazy_instances import LazyInstances
from segzoo.modeling.mask_classification.bilinear import MaskResizer
from segzoo.modeling.mask_classification.postprocess import BinaryMasks

MASK_THRESHOLD = 0.5
# Bounds of scores that are compared with a threshold may differ from them by rounding.
_SLACK = 1.001


@dataclass(frozen=True)
class ScoredMasks:
    """The masks of an image, things and stuff together.

    Attributes:
        masks: (n + U, h, w) float32 >= 0.
        probabilities: (n + U,) float32, of their classes.
        classes: (n + U,) int64 in [0, K).
        is_thing: (n + U,) bool.
        boxes: (n + U, 4) float32 in [0, 1], left, top, right, bottom in units of the image; zeros for stuff.
    """

    masks: Tensor
    probabilities: Tensor
    classes: Tensor
    is_thing: Tensor
    boxes: Tensor

    def select(self, selected: Tensor) -> "ScoredMasks":
        """Return some of the masks: indices, or flags."""
        return replace(self, **{name: value[selected] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Thresholds:
    """When a mask is dropped, for things and for stuff.

    Attributes:
        thing_score, stuff_score: if its score is lower.
        thing_overlap, stuff_overlap: if segments of higher scores cover a larger share of it.
    """

    thing_score: float = 0.25
    stuff_score: float = 0.25
    thing_overlap: float = 0.4
    stuff_overlap: float = 0.2


def cropped(masks: Tensor, sizes: Sizes) -> Tensor:
    """Return (M, h', w'): the part of masks (M, h, w) of the padded image that shows the image."""
    ends = [
        -(-cells * side // padded)
        for cells, side, padded in zip(masks.shape[-2:], sizes.image, sizes.padded, strict=True)
    ]
    return masks[:, : ends[0], : ends[1]]


def panoptic(found: ScoredMasks, size: tuple[int, int], thresholds: Thresholds) -> tuple[Tensor, list[dict]]:
    """Paint masks in the order of their scores where nothing has been painted.

    Args:
        found: the masks.
        size: (H, W).
        thresholds: masks that are not painted.

    Returns:
        ids: (H, W) int32, 0 for none.
        segments_info: dicts of `id` (from 1, in the order of scores), `isthing`, `category_id`, `score`.
    """
    lowest = torch.where(found.is_thing, thresholds.thing_score, thresholds.stuff_score)
    # A mean of values is not larger than the largest of them, and resizing does not increase it.
    largest = found.masks.flatten(1).amax(1)
    found = found.select((largest > MASK_THRESHOLD) & (_SLACK * found.probabilities * largest**2 >= lowest))
    binary, scores = _scored(found, size)
    order = scores.argsort(descending=True, stable=True).tolist()
    rows = zip(
        scores.tolist(), found.is_thing.tolist(), found.classes.tolist(), binary.areas.tolist(), strict=True
    )
    table, parts = list(rows), binary.parts()
    ids = torch.zeros(size, dtype=torch.int32, device=found.masks.device)
    segments_info: list[dict] = []
    for index in order:
        score, thing, category, area = table[index]
        if score < (thresholds.thing_score if thing else thresholds.stuff_score) or area == 0:
            continue
        free = [(rows, columns, inside & (ids[rows, columns] == 0)) for rows, columns, inside in parts[index]]
        visible = int(torch.stack([part.sum() for *_, part in free]).sum())
        if (area - visible) / area > (thresholds.thing_overlap if thing else thresholds.stuff_overlap):
            continue
        number = len(segments_info) + 1
        for rows, columns, part in free:
            ids[rows, columns].masked_fill_(part, number)
        segments_info.append({"id": number, "isthing": thing, "category_id": category, "score": score})
    return ids, segments_info


def entities(
    found: ScoredMasks,
    size: tuple[int, int],
    thresholds: Thresholds,
    score_threshold: float,
    max_entities: int,
) -> tuple[Tensor, list[dict]]:
    """Return class-agnostic segments that do not overlap, painted as in `panoptic`.

    Args:
        thresholds: only those of the overlaps are used.
        score_threshold: segments whose score is not above this are dropped.
        max_entities: maximum number; the best are kept.

    Returns:
        ids: (H, W) int32, 0 for none.
        info: dicts of `id` (from 1, by descending score), `score` and `category_id`, the class.
    """
    scores = {"thing_score": score_threshold, "stuff_score": score_threshold}
    ids, segments = panoptic(found, size, replace(thresholds, **scores))
    kept = [one for one in segments if one["score"] > score_threshold][:max_entities]
    info = [{name: one[name] for name in ("id", "score", "category_id")} for one in kept]
    # Segments are in the order of their scores: those that are dropped have the largest ids.
    return ids * (ids <= len(info)), info


def instances(found: ScoredMasks, size: tuple[int, int], max_instances: int) -> LazyInstances:
    """Return the things by descending score; their masks may overlap.

    Returns:
        Instances of size (H, W), n <= max_instances:
            pred_masks: (n, H, W) bool; in memory as bits until they are read.
            scores: (n,) float32.
            pred_classes: (n,) int64 in [0, K).
            pred_boxes: Boxes (n, 4) of the location decoder, not of the masks.
    """
    found = found.select(found.is_thing)
    binary, scores = _scored(found, size)
    order = scores.argsort(descending=True, stable=True)[:max_instances]
    height, width = size
    boxes = found.boxes[order].clamp(0, 1) * found.boxes.new_tensor([width, height, width, height])
    result = LazyInstances(
        size, scores=scores[order], pred_classes=found.classes[order], pred_boxes=Boxes(boxes)
    )
    result.pred_masks = binary.lazy(order)
    return result


def semantic_scores(found: ScoredMasks, size: tuple[int, int], num_classes: int) -> Tensor:
    """Return (K, H, W) float32 in [0, 1]: for each class the largest probability times mask value, at most 1.

    The paper has no semantic results.
    """
    scores = found.masks.new_zeros((num_classes, *size))
    for start, stop, band in _semantic_bands(found, size, num_classes):
        scores[:, start:stop] = band
    return scores


def semantic_labels(found: ScoredMasks, size: tuple[int, int], num_classes: int) -> Tensor:
    """Return the class of the largest of `semantic_scores`, (H, W) uint8, or int16 where K > 255."""
    labels = found.masks.new_empty(size, dtype=torch.uint8 if num_classes <= 255 else torch.int16)
    for start, stop, band in _semantic_bands(found, size, num_classes):
        labels[start:stop] = band.max(0).indices
    return labels


def _scored(found: ScoredMasks, size: tuple[int, int]) -> tuple[BinaryMasks, Tensor]:
    """Return the masks at the size of the result, and their scores."""
    everything = torch.arange(len(found.masks), device=found.masks.device)
    resizer = MaskResizer(size, size, size)
    with without_autocast(found.masks.device):
        binary = BinaryMasks(found.masks, everything, resizer, MASK_THRESHOLD, values=True)
    quality = binary.totals / (binary.areas + 1)
    return binary, found.probabilities * quality**2


def _semantic_bands(
    found: ScoredMasks, size: tuple[int, int], num_classes: int
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (start, stop, scores (K, stop - start, W)) in bands of rows."""
    elements = 2**21 if found.masks.device.type == "cpu" else 2**26
    rows = max(elements // (max(len(found.masks), num_classes) * size[1]), 1)
    of_class: list[list[int]] = [[] for _ in range(num_classes)]
    for index, category in enumerate(found.classes.tolist()):
        of_class[category].append(index)
    probabilities = found.probabilities[:, None, None]
    with without_autocast(found.masks.device):
        for start, stop, planes in MaskResizer(size, size, size).bands(found.masks, rows):
            scores = planes.clamp(max=1) * probabilities
            zeros = scores.new_zeros(scores.shape[1:])
            yield (
                start,
                stop,
                torch.stack([scores[indices].amax(0) if indices else zeros for indices in of_class]),
            )


def joined(things: Sequence[ScoredMasks]) -> ScoredMasks:
    """Return the masks of several parts together."""
    return ScoredMasks(
        *(torch.cat(values) for values in zip(*(vars(one).values() for one in things), strict=True))
    )
