"""Polygons of annotations, transformed with their image.

Shape shorthand: P points of a polygon; S segments.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import CropTransform, NoOpTransform, Transform, TransformList

from .polygons import polygon_area

# Square pixels.
_SMALLEST_AREA = 1e-9

# The polygons of a segment, (P, 2) float64 each, x and y in pixels; None for a mask in another form.
Outline = list[np.ndarray] | None


def read_outlines(annotations: Sequence[Mapping[str, Any]]) -> list[Outline]:
    """Return the polygons of each annotation of an image; None for one with an RLE."""
    return [_read(annotation["segmentation"]) for annotation in annotations]


def _read(segmentation: Any) -> Outline:
    if not isinstance(segmentation, list):
        return None
    return [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation]


def transform_outlines(outlines: Sequence[Outline], transform: Transform) -> list[Outline]:
    """Apply to polygons what was applied to their image.

    A crop leaves the part inside, as in Detectron2 (which needs shapely for it); polygons without area there
    are left out.
    """
    found = [list(outline) if outline is not None else None for outline in outlines]
    for step in _steps(transform):
        if isinstance(step, CropTransform):
            right, bottom = step.x0 + step.w, step.y0 + step.h
            found = [
                None if outline is None else list(_inside(outline, step.x0, step.y0, right, bottom))
                for outline in found
            ]
        _move(found, step)
    return found


def _steps(transform: Transform) -> Iterator[Transform]:
    if isinstance(transform, TransformList):
        for one in transform.transforms:
            yield from _steps(one)
    elif not isinstance(transform, NoOpTransform):
        yield transform


def _move(outlines: list[Outline], transform: Transform) -> None:
    """Transform all points in one call, in place."""
    polygons = [polygon for outline in outlines for polygon in outline or ()]
    if not polygons:
        return
    points = transform.apply_coords(np.concatenate(polygons))
    ends = np.cumsum([len(polygon) for polygon in polygons])
    moved = iter(np.split(points, ends[:-1]))
    for outline in filter(None, outlines):
        outline[:] = [next(moved) for _ in outline]


def _inside(
    polygons: Sequence[np.ndarray], left: float, top: float, right: float, bottom: float
) -> Iterator[np.ndarray]:
    """Clip polygons at a rectangle (Sutherland and Hodgman 1974), leaving out those without area in it.

    The parts of a polygon that is cut in two stay joined along the rectangle's border, without area.
    """
    for polygon in polygons:
        for axis, sign, limit in ((0, 1, left), (1, 1, top), (0, -1, right), (1, -1, bottom)):
            polygon = _clip(polygon, axis, sign, limit)
        if len(polygon) >= 3 and polygon_area(polygon.reshape(-1)) > _SMALLEST_AREA:
            yield polygon


def _clip(polygon: np.ndarray, axis: int, sign: int, limit: float) -> np.ndarray:
    """Return the part of a polygon with sign * x >= sign * limit, where x is the coordinate on `axis`."""
    distance = sign * (polygon[:, axis] - limit)
    kept = distance >= 0
    if kept.all():
        return polygon
    if not kept.any():
        return polygon[:0]
    following, next_distance = np.roll(polygon, -1, axis=0), np.roll(distance, -1)
    crosses = kept != (next_distance >= 0)
    share = np.divide(distance, distance - next_distance, out=np.zeros_like(distance), where=crosses)
    crossings = polygon + share[:, None] * (following - polygon)
    crossings[:, axis] = limit
    # Each point, where it is kept, then the crossing on the way to the next one.
    return np.stack([polygon, crossings], axis=1)[np.stack([kept, crosses], axis=1)]


def outline_boxes(outlines: Sequence[Sequence[np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """Return the extremes of each segment's polygons inside an image.

    Args:
        outlines: S lists of at least one polygon.
        size: (height, width).

    Returns:
        (S, 4) float32 x1, y1, x2, y2 in [0, width] and [0, height].
    """
    boxes: np.ndarray = np.zeros((len(outlines), 4), dtype=np.float32)
    for box, polygons in zip(boxes, outlines, strict=True):
        box[:2] = np.min([polygon.min(axis=0) for polygon in polygons], axis=0)
        box[2:] = np.max([polygon.max(axis=0) for polygon in polygons], axis=0)
    height, width = size
    return boxes.clip(0, np.array([width, height] * 2, dtype=np.float32))
