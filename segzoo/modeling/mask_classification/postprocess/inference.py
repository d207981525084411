"""Conversion of class and mask logits of one image to semantic, panoptic, instance and entity results.

Queries that cannot appear are dropped first, and masks are upsampled one tile (or band of rows) at a time,
only where they are needed. Sources: MaskFormer §3.4, Mask2Former §4 (instances), EntitySeg §3 (entities).

Shape shorthand: Q queries, K classes without "no object", h w pixels of a mask, H W pixels of the output.

Every function takes
    logits: (Q, K+1) float class logits; the last is "no object".
    masks: (Q, h, w) float mask logits.
    padded_size, image_size, output_size: (height, width) of the network's input, of the image in its upper
        left corner, and of the result, (H, W). Masks are resized to the first, cropped to the second, and
        resized to the third.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from detectron2.structures import Boxes
from torch import Tensor

from segzoo.layers.runtime import without_autocast

from ...lazy_instances import LazyInstances
from ..bilinear import MaskResizer, source_rows
from .binary_masks import BinaryMasks
from .candidate_classes import TILE, CandidateClasses
from .panoptic_fusion import PixelAssignment

Size = tuple[int, int]

# Bounds of the scores save time from about this number of classes on.
_MANY_CLASSES = 100


def semantic_scores(
    logits: Tensor,
    masks: Tensor,
    padded_size: Size,
    image_size: Size,
    output_size: Size,
    resize_scores: bool = False,
) -> Tensor:
    """Return class scores per pixel: sum over queries of p(class) * sigmoid(mask).

    Args:
        resize_scores: compute scores at image size and resize the scores instead of the mask logits, as the
            published semantic models were evaluated.

    Returns:
        (K, H, W) float32, >= 0.
    """
    scores = masks.new_empty((logits.shape[1] - 1, *output_size), dtype=torch.float32)
    resizer = MaskResizer(padded_size, image_size, output_size)
    with without_autocast(masks.device):
        for start, stop, band in _semantic_bands(logits, masks, resizer, resize_scores):
            scores[:, start:stop] = band
    return scores


def semantic_labels(
    logits: Tensor,
    masks: Tensor,
    padded_size: Size,
    image_size: Size,
    output_size: Size,
    resize_scores: bool = False,
) -> Tensor:
    """Return the argmax of `semantic_scores` over classes (ties go to the first).

    The complete scores are never in memory.

    Returns:
        (H, W) class indices in [0, K), uint8, or int16 where K > 255.
    """
    dtype = torch.uint8 if logits.shape[1] - 1 <= 255 else torch.int16
    labels = masks.new_empty(output_size, dtype=dtype)
    resizer = MaskResizer(padded_size, image_size, output_size)
    with without_autocast(masks.device):
        if masks.device.type == "cpu" and logits.shape[1] - 1 >= _MANY_CLASSES:
            bands = _candidate_bands(logits, masks, resizer, resize_scores)
        else:
            # On a CPU max over the first dimension is faster than argmax, with the same result.
            bands = (
                (start, stop, band.max(0).indices)
                for start, stop, band in _semantic_bands(logits, masks, resizer, resize_scores)
            )
        for start, stop, band in bands:
            labels[start:stop] = band
    return labels


def panoptic(
    logits: Tensor,
    masks: Tensor,
    padded_size: Size,
    image_size: Size,
    output_size: Size,
    is_thing: Sequence[bool],
    object_mask_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
    confident_pixels_only: bool = False,
) -> tuple[Tensor, list[dict]]:
    """Assign each pixel to the kept query of largest score * sigmoid(mask); drop segments that lost too much.

    Args:
        is_thing: K flags. Segments of one stuff class are merged.
        object_mask_threshold: queries are dropped whose class is "no object" or whose score is not above
            this.
        overlap_threshold: a segment is dropped if it won less than this fraction of the pixels of its own
            mask (probability >= 0.5).
        confident_pixels_only: a segment keeps only those pixels it won where its probability is at least 0.5
            (Mask2Former); otherwise all of them (MaskFormer).

    Returns:
        ids: (H, W) int32, 0 for void.
        segments_info: dicts of `id` (from 1, in the order of queries), `isthing`, `category_id` in [0, K),
            and `score` in [0, 1] (for merged stuff, the largest).
    """
    scores, classes = logits.float().softmax(-1).max(-1)
    kept = ((classes != logits.shape[1] - 1) & (scores > object_mask_threshold)).nonzero()[:, 0]
    resizer = MaskResizer(padded_size, image_size, output_size)
    pixels = PixelAssignment(masks, kept, scores[kept], resizer, confident_pixels_only)
    lookup, segments_info, stuff_segments = [0], [], {}
    for score, category, area, mask_area, painted in zip(
        scores[kept].tolist(), classes[kept].tolist(), *pixels.areas(), strict=True
    ):
        lookup.append(0)
        if min(area, mask_area, painted) == 0 or area / mask_area < overlap_threshold:
            continue
        segment = stuff_segments.get(category)
        if segment is None:
            segment = {"id": len(segments_info) + 1, "isthing": bool(is_thing[category])}
            segment.update(category_id=category, score=score)
            segments_info.append(segment)
            if not segment["isthing"]:
                stuff_segments[category] = segment
        segment["score"] = max(segment["score"], score)
        lookup[-1] = segment["id"]
    return pixels.paint(lookup), segments_info


def entities(
    logits: Tensor,
    masks: Tensor,
    padded_size: Size,
    image_size: Size,
    output_size: Size,
    score_threshold: float = 0.0,
    max_entities: int = 100,
    overlap_threshold: float = 0.0,
) -> tuple[Tensor, list[dict]]:
    """Return class-agnostic segments that do not overlap, each with a score for ranking.

    A query's score is its probability of being an object, 1 - p(no object). A pixel is assigned to the query
    of largest score * sigmoid(mask), if that mask's probability is at least 0.5. The final score is the
    query's times the mean mask probability over the pixels it has won. Stuff is not merged.

    Args:
        score_threshold: queries and entities whose score is not above this are dropped.
        max_entities: maximum number of entities; the best are kept.
        overlap_threshold: as in `panoptic`; 0 keeps every entity with a visible pixel.

    Returns:
        ids: (H, W) int32, 0 for none.
        info: dicts of `id`, `score` in [0, 1] and `category_id` in [0, K), the most probable class; sorted by
            descending score, with ids from 1 in that order.
    """
    probabilities = logits.float().softmax(-1)
    scores = 1 - probabilities[:, -1]
    classes = probabilities[:, :-1].argmax(-1).tolist()
    kept = (scores > score_threshold).nonzero()[:, 0]
    resizer = MaskResizer(padded_size, image_size, output_size)
    pixels = PixelAssignment(masks, kept, scores[kept], resizer, with_probability=True)
    final_scores = (scores[kept] * pixels.mean_probabilities()).tolist()
    candidates = []
    for index, (query, score, area, mask_area, painted) in enumerate(
        zip(kept.tolist(), final_scores, *pixels.areas(), strict=True)
    ):
        if painted > 0 and score > score_threshold and area / mask_area >= overlap_threshold:
            candidates.append((score, index, classes[query]))
    candidates.sort(key=lambda candidate: -candidate[0])
    lookup, info = [0] * (len(kept) + 1), []
    for score, index, category in candidates[:max_entities]:
        info.append({"id": len(info) + 1, "score": score, "category_id": category})
        lookup[index + 1] = len(info)
    return pixels.paint(lookup), info


def instances(
    logits: Tensor,
    masks: Tensor,
    padded_size: Size,
    image_size: Size,
    output_size: Size,
    max_instances: int = 100,
    is_thing: Sequence[bool] | None = None,
) -> LazyInstances:
    """Return the best pairs of query and class; masks may overlap, and a query may have several classes.

    Args:
        max_instances: number of pairs considered.
        is_thing: K flags; pairs of other classes are dropped after the best were chosen. None: all classes
            are things.

    Returns:
        Instances of size (H, W), by descending score, n <= max_instances:
            pred_masks: (n, H, W) bool, mask logit > 0; in memory as bits until they are read.
            scores: (n,) float32, p(class) * mean mask probability over the mask.
            pred_classes: (n,) int64 in [0, K).
            pred_boxes: Boxes (n, 4), x0 y0 x1 y1 with exclusive maxima; zeros for an empty mask.
    """
    num_classes = logits.shape[1] - 1
    pair_scores = logits.float().softmax(-1)[:, :-1].flatten()
    pair_scores, pairs = pair_scores.topk(min(max_instances, len(pair_scores)))
    queries, classes = pairs // num_classes, pairs % num_classes
    if is_thing is not None:
        things = torch.as_tensor(is_thing, dtype=torch.bool, device=logits.device)[classes]
        pair_scores, queries, classes = pair_scores[things], queries[things], classes[things]

    selected, mask_of_pair = queries.unique(return_inverse=True)
    binary = BinaryMasks(masks, selected, MaskResizer(padded_size, image_size, output_size))
    scores = pair_scores * binary.quality[mask_of_pair]
    order = scores.argsort(descending=True, stable=True)
    ranked = mask_of_pair[order]
    result = LazyInstances(
        binary.size,
        scores=scores[order],
        pred_classes=classes[order],
        pred_boxes=Boxes(binary.boxes[ranked]),
    )
    result.pred_masks = binary.lazy(ranked)
    return result


def _semantic_bands(
    logits: Tensor, masks: Tensor, resizer: MaskResizer, resize_scores: bool
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (start, stop, scores (K, stop - start, W)) in bands of rows."""
    class_weights = _class_weights(logits)

    def scores(planes: Tensor) -> Tensor:
        return (class_weights @ planes.sigmoid_().flatten(1)).unflatten(1, planes.shape[1:])

    # On a CPU a band stays in the cache; a GPU is faster with long vectors.
    elements = 2**21 if masks.device.type == "cpu" else 2**26
    width = max(resizer.output_size[1], resizer.padded_size[1])
    rows = max(elements // (sum(logits.shape) * width), 1)
    if resize_scores:
        yield from resizer.bands(masks.float(), rows, at_image_size=scores)
        return
    for start, stop, planes in resizer.bands(masks.float(), rows):
        yield start, stop, scores(planes)


def _candidate_bands(
    logits: Tensor, masks: Tensor, resizer: MaskResizer, resize_scores: bool
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (start, stop, labels (stop - start, W)) in bands of rows, without the scores of most classes."""
    width, resized_width = resizer.image_size[1], resizer.output_size[1]
    if not resize_scores or width == resized_width:
        candidates = CandidateClasses(_class_weights(logits), resized_width, lambda *columns: columns)
    else:
        candidates = CandidateClasses(
            _class_weights(logits),
            resized_width,
            lambda *columns: source_rows(*columns, width, resized_width),
        )
    for start, stop, planes, to_output in resizer.image_bands(masks.float(), TILE):
        if not resize_scores or resizer.image_size == resizer.output_size:
            yield start, stop, candidates.labels(to_output(planes).sigmoid_())
        else:
            yield start, stop, candidates.labels(planes.sigmoid_(), to_output)


def _class_weights(logits: Tensor) -> Tensor:
    """Return p(class) of each query, (K, Q) float32."""
    return logits.float().softmax(-1)[:, :-1].t()
