"""From the predictions of all locations of an image to a ranked list of candidates.

Shape shorthand: L locations, K candidates.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from .fcos_head import Locations


class Candidates(NamedTuple):
    """The candidates of an image, by descending score.

    Attributes:
        positions: (K,) int64 index of the location of each, in [0, L).
        scores: (K,) float32, the square root of probability times centerness.
        boxes: (K, 4) float32 x0, y0, x1, y1 in pixels of the padded image, not clipped.
    """

    positions: Tensor
    scores: Tensor
    boxes: Tensor


def find_candidates(
    class_logits: Tensor,
    centerness_logits: Tensor,
    distances: Tensor,
    locations: Locations,
    strides: Tensor,
    *,
    score_threshold: float = 0.05,
    candidates_per_level: int = 1000,
    nms_threshold: float = 0.6,
    max_candidates: int = 100,
) -> Candidates:
    """Find the candidates of an image.

    Args:
        class_logits, centerness_logits: (L,) float.
        distances: (L, 4) float, in strides.
        locations: of all levels.
        strides: (levels,) float.
        score_threshold: a location whose probability, without centerness, is not above this is dropped.
        candidates_per_level: number of locations of a level before non-maximum suppression; those of the
            largest probability times centerness are kept.
        nms_threshold: a candidate is dropped if the IoU of its box with that of a better one is above this.
        max_candidates: maximum number of candidates, except for equal scores at the last place.
    """
    probability = class_logits.float().sigmoid()
    scores = probability * centerness_logits.float().sigmoid()
    kept = []
    for level in range(len(strides)):
        (found,) = ((locations.levels == level) & (probability > score_threshold)).nonzero(as_tuple=True)
        if len(found) > candidates_per_level:
            found = found[scores[found].topk(candidates_per_level, sorted=False).indices]
        kept.append(found)
    positions = torch.cat(kept)
    points = locations.points[positions]
    sides = distances[positions].float() * strides[locations.levels[positions]][:, None]
    boxes = torch.cat((points - sides[:, :2], points + sides[:, 2:]), 1)
    scores = scores[positions].sqrt()
    if len(positions):
        order = nms(boxes, scores, nms_threshold)
        positions, scores, boxes = positions[order], scores[order], boxes[order]
    if len(positions) > max_candidates:
        kept_scores = scores >= scores[max_candidates - 1]
        positions, scores, boxes = positions[kept_scores], scores[kept_scores], boxes[kept_scores]
    return Candidates(positions, scores, boxes)


def visible_boxes(boxes: Tensor, image_size: tuple[int, int], output_size: tuple[int, int]) -> Tensor:
    """Return which boxes have an area after they are scaled to the output and clipped to it.

    Args:
        boxes: (K, 4) float in pixels of the image.
        image_size, output_size: (height, width).

    Returns:
        (K,) bool
    """
    sides = []
    for axis, index in ((1, 0), (0, 1)):
        scale = output_size[axis] / image_size[axis]
        ends = (boxes[:, index::2] * scale).clamp(0, output_size[axis])
        sides.append(ends[:, 1] > ends[:, 0])
    return sides[0] & sides[1]
