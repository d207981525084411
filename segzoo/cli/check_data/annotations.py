"""What the coordinates of a JSON's polygons say of the images that they are for."""

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np

from .checked import CheckedSplit, Finding

# Programs round to the next pixel, or count from 1; more than that lies outside.
_PIXELS, _PART = 2, 0.01
# From here on a part of the instances is no accident.
_MANY = 0.05
# Images whose instances all lie in the upper left quarter, by no accident.
_IMAGES = 10


def annotation_findings(split: CheckedSplit) -> list[Finding]:
    """Return findings on polygons beyond their images, in a corner of them only, and within others."""
    outside, images, total, holes, first, farthest = 0, 0, 0, 0, "", 0.0
    for record in split.records:
        width, height = record.get("width", 0), record.get("height", 0)
        found = 0
        for annotation in record.get("annotations", ()):
            polygons = annotation["segmentation"]
            if not isinstance(polygons, list) or not width or not height:
                continue
            left, top, right, bottom = _bounds(polygons)
            found += 1
            farthest = max(farthest, right / width, bottom / height)
            far = max(right - width, bottom - height, -left, -top)
            if far > _PIXELS + _PART * max(width, height):
                outside += 1
                first = first or (
                    f"annotation {annotation.get('id')} of {Path(record['file_name']).name}, x {left:g} to "
                    f"{right:g}, y {top:g} to {bottom:g} in {width}x{height}"
                )
            holes += _has_hole(polygons)
        images += found > 0
        total += found
    remedy = "export annotations and images in one resolution, and coordinates in pixels"
    findings = []
    if holes:
        several = f"{holes:,} of {total:,} instances have" if holes > 1 else f"1 of {total:,} instances has"
        findings = [
            Finding(
                False,
                split.name,
                f"{several} a polygon within another one; COCO's polygons have no holes: they are filled",
                "export masks with holes as run lengths (RLE)",
            )
        ]
    if outside:
        text = f"{outside:,} of {total:,} instances reach beyond their image (first: {first})"
        return [*findings, Finding(outside > _MANY * total, split.name, text, remedy)]
    if images >= _IMAGES and farthest <= 0.5:
        text = f"all {total:,} instances lie in the upper left quarter of their images, up to {farthest:.0%}"
        return [*findings, Finding(True, split.name, text, remedy)]
    return findings


def _has_hole(polygons: Sequence[Sequence[float]]) -> bool:
    """Return whether all corners of a polygon lie within another one."""
    if len(polygons) < 2:
        return False
    shapes = [np.asarray(polygon, dtype=np.float32).reshape(-1, 2) for polygon in polygons]
    return any(
        all(cv2.pointPolygonTest(outer, tuple(corner.tolist()), False) > 0 for corner in inner)
        for outer, inner in permutations(shapes, 2)
    )


def _bounds(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """Return the box around polygons: left, top, right, bottom."""
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)
