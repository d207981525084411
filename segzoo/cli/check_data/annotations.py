"""Findings on the coordinates of a JSON's polygons, compared with the size of their images."""

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np

from .checked import CheckedSplit, Finding

# Tolerance for rounding and for coordinates that count from 1: pixels, plus a fraction of the longer side.
_TOLERANCE, _RELATIVE_TOLERANCE = 2, 0.01
# Fraction of instances outside their image above which this is a problem.
_MOST_OUTSIDE = 0.05
# Minimum number of images for a finding that all instances lie in the upper left quarter.
_LEAST_IMAGES = 10


def annotation_findings(split: CheckedSplit) -> list[Finding]:
    """Return findings on polygons outside their images, only in a corner of them, and inside others."""
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
            if far > _TOLERANCE + _RELATIVE_TOLERANCE * max(width, height):
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
                f"{several} a polygon inside another one; COCO's polygons have no holes: they are filled",
                "export masks with holes as RLE",
            )
        ]
    if outside:
        text = f"{outside:,} of {total:,} instances reach beyond their image (first: {first})"
        return [*findings, Finding(outside > _MOST_OUTSIDE * total, split.name, text, remedy)]
    if images >= _LEAST_IMAGES and farthest <= 0.5:
        text = f"all {total:,} instances lie in the upper left quarter of their images, up to {farthest:.0%}"
        return [*findings, Finding(True, split.name, text, remedy)]
    return findings


def _has_hole(polygons: Sequence[Sequence[float]]) -> bool:
    """Return whether all corners of a polygon lie inside another one."""
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
