"""Which locations are responsible for an entity: center-of-mass sampling.

Shape shorthand: L locations, S entities of an image.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .fcos_head import Locations


class Entities(NamedTuple):
    """The entities of an image that locations can be assigned to.

    Attributes:
        boxes: (S, 4) float32 x0, y0, x1, y1 in pixels.
        centers: (S, 2) float32 x, y: the means of the masks' pixel indices.
        segments: (S,) int64 index of each among the target segments of the image.
    """

    boxes: Tensor
    centers: Tensor
    segments: Tensor


class Assignment(NamedTuple):
    """The positive locations of an image, in ascending order.

    Attributes:
        positions: (M,) int64 index of each in [0, L).
        segments: (M,) int64, the target segment that each is responsible for.
        distances: (M, 4) float32 from the location to the left, top, right and bottom of the box, in pixels.
    """

    positions: Tensor
    segments: Tensor
    distances: Tensor


def assign(
    locations: Locations, entities: Entities, strides: Tensor, ranges: Tensor, radius: float = 1.5
) -> Assignment:
    """Assign locations to entities.

    A location is a candidate for an entity if it is strictly inside the square of +- radius * stride around
    the entity's center of mass, clipped to its box, and the largest of its distances to the box's sides is in
    the range of its level, both ends included. The candidate entity with the smallest box wins, the first of
    several.

    Args:
        locations: of all levels.
        entities: of the image.
        strides: (levels,) float, stride of each level.
        ranges: (levels, 2) float, range of sizes of each level in pixels.
        radius: half of the side of the square, in strides.
    """
    points, levels = locations
    boxes, centers, segments = entities
    if not len(boxes):
        none = levels.new_zeros(0)
        return Assignment(none, none, points.new_zeros((0, 4)))
    distances = torch.cat((points[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - points[:, None]), 2)
    reach = (strides[levels] * radius)[:, None, None]
    low = torch.maximum(centers - reach, boxes[:, :2])
    high = torch.minimum(centers + reach, boxes[:, 2:])
    candidate = ((points[:, None] > low) & (points[:, None] < high)).all(2)
    size = distances.amax(2)
    candidate &= (size >= ranges[levels, :1]) & (size <= ranges[levels, 1:])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # The first of equal areas, on any device.
    order = areas.argsort(stable=True)
    rank = torch.where(candidate[:, order], torch.arange(len(order), device=order.device), len(order))
    best = rank.amin(1)
    positions = (best < len(order)).nonzero()[:, 0]
    chosen = order[best[positions]]
    return Assignment(positions, segments[chosen], distances[positions, chosen])
