"""Reading polygons of COCO's format in the various forms in which programs write them.

COCO has a list of [x, y, x, y, ...] in pixels. Other forms are read if they are unambiguous.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from segzoo.utils.errors import InputError
from segzoo.utils.json_values import shown

from .checks import RemediedError

_NUMBERS = (float, int)
# Number of coordinates of a triangle, the smallest polygon. pycocotools takes four numbers for a box.
_TRIANGLE = 6
# Relative coordinates are at most 1; polygons in pixels are assumed to reach beyond this value.
_LARGEST_RELATIVE = 1.001
# Pixels. In smaller images coordinates of at most 1 may be pixels.
_SMALLEST_SIDE = 4
_EXPECTED = "segmentation must be a list of polygons [x, y, x, y, ...], or of points [[x, y], ...]"


def read_polygons(segmentation: Any, describe: Callable[[], str]) -> list[list[float]]:
    """Return polygons of any supported form in COCO's form, a list of [x, y, x, y, ...].

    Args:
        segmentation: polygons of numbers, of points [x, y] or of points {"x": ..., "y": ...}, or one such
            polygon; the numbers, or the whole, may be strings.
        describe: returns the annotation's description, for messages.

    Raises:
        InputError: another form, or an odd number of coordinates.
    """
    polygons = segmentation
    if not are_plain_coco(segmentation):
        polygons = list(_converted(_parsed(segmentation), describe))
    for polygon in polygons:
        if len(polygon) % 2:
            raise InputError(
                f"{describe()} has a polygon of {len(polygon)} coordinates, an odd number; {_EXPECTED}"
            )
    return polygons


def are_plain_coco(segmentation: Any) -> bool:
    """Return whether these are polygons in COCO's form, judging by the first coordinate of each."""
    if not isinstance(segmentation, list):
        return False
    is_flat = all(isinstance(one, list) and (not one or type(one[0]) in _NUMBERS) for one in segmentation)
    # Three or more pairs of numbers are the points of one polygon, not polygons of one point each.
    return is_flat and not (len(segmentation) > 2 and all(len(one) == 2 for one in segmentation))


def has_three_points(polygon: Sequence[float]) -> bool:
    """Return whether the polygon has at least three points."""
    return len(polygon) >= _TRIANGLE


def are_valid_coco(segmentation: Any) -> bool:
    """Return whether these are polygons in COCO's form, each with at least three points."""
    if type(segmentation) is not list:
        return False
    for one in segmentation:
        if type(one) is not list or len(one) < _TRIANGLE or len(one) % 2 or type(one[0]) not in _NUMBERS:
            return False
    return bool(segmentation)


def _converted(polygons: Any, describe: Callable[[], str]) -> Iterator[list[float]]:
    if isinstance(polygons, list) and all(_number(one) is not None for one in polygons):
        yield [side for one in polygons if (side := _number(one)) is not None]
    elif isinstance(polygons, list) and all(_point(one) is not None for one in polygons):
        yield [side for one in polygons for side in _point(one) or ()]
    elif isinstance(polygons, list) and all(_holds_one(_parsed(one)) for one in polygons):
        for polygon in polygons:
            yield from _converted(_parsed(polygon), describe)
    else:
        raise InputError(f"{describe()} has the segmentation {shown(polygons)}; {_EXPECTED}")


def _holds_one(polygon: Any) -> bool:
    """Return whether this is a list of numbers or of points, i.e. one polygon and not a list of them."""
    return isinstance(polygon, list) and all(
        _number(one) is not None or _point(one) is not None for one in polygon
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _point(value: Any) -> tuple[float, float] | None:
    """Return (x, y) from [x, y] or {"x": x, "y": y}; None for anything else."""
    if isinstance(value, Mapping) and {"x", "y"} <= value.keys():
        value = [value["x"], value["y"]]
    if not isinstance(value, list) or len(value) != 2:
        return None
    x, y = map(_number, value)
    return None if x is None or y is None else (x, y)


def _parsed(value: Any) -> Any:
    """Parse a string "[1, 2, ...]", "1, 2, ..." or "1 2 ..." to a list; return anything else unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value if "[" in value else f"[{','.join(value.replace(',', ' ').split())}]")
    except ValueError:
        return value


def polygon_area(polygon: Sequence[float] | np.ndarray) -> float:
    """Return the area of a polygon [x, y, x, y, ...]; NaN if a coordinate is not a number."""
    try:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        return np.nan
    x, y = points[:, 0], points[:, 1]
    with np.errstate(invalid="ignore"):  # infinite coordinates
        return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def check_polygons(records: Sequence[Mapping[str, Any]], json_file: str) -> None:
    """Raise InputError if all polygons of a file are wrong in the same way; stops at the first good polygon.

    Args:
        records: with `height` and `width`, if known, and `annotations` with flat polygons.

    Raises:
        RemediedError: all coordinates are in 0..1.
        InputError: all polygons have the area 0.
    """
    if next(_polygons(records), None) is None:
        return
    sides = ((min(record.get("height", 0), record.get("width", 0)), record) for record in records)
    large = next((record for side, record in sides if side >= _SMALLEST_SIDE and record["annotations"]), None)
    if large is not None and all(map(_is_relative, _polygons(records))):
        raise RemediedError(
            f"{json_file}: all coordinates of its polygons are in 0..1, but its images are larger (first "
            f"{large['file_name']}, {large['width']}x{large['height']}), expected pixels; if they are "
            "fractions of width and height, set coordinates: relative",
            {"coordinates": "relative"},
        )
    if all(polygon_area(polygon) == 0 for polygon in _polygons(records)):
        raise InputError(
            f"{json_file}: all of its polygons have the area 0, their points lie on a line; {_EXPECTED}, "
            "in pixels: export them again"
        )


def _is_relative(polygon: Sequence[float]) -> bool:
    try:
        return max(polygon) <= _LARGEST_RELATIVE
    except TypeError:  # reading the mask reports the annotation
        return False


def _polygons(records: Sequence[Mapping[str, Any]]) -> Iterator[list[float]]:
    for record in records:
        for annotation in record["annotations"]:
            if isinstance(annotation["segmentation"], list):
                yield from annotation["segmentation"]


def scale_relative(records: Sequence[Mapping[str, Any]], json_file: str) -> None:
    """Convert polygons from fractions of their image's sides to pixels, in place.

    Raises:
        InputError: a coordinate is not a fraction.
    """
    for record in records:
        for annotation in (*record["annotations"], *record.get("void_annotations", ())):
            if not isinstance(annotation["segmentation"], list):
                continue
            sides = (record["width"], record["height"])
            scaled = []
            for polygon in annotation["segmentation"]:
                if max(polygon) > 2:
                    raise InputError(
                        f"{json_file}: annotation {shown(annotation.get('id'))} has the coordinate "
                        f"{max(polygon):g}, but the YAML has coordinates: relative, in 0..1; remove the key"
                    )
                scaled.append([value * sides[index % 2] for index, value in enumerate(polygon)])
            annotation["segmentation"] = scaled
            # Their unit is unknown; they are measured from the masks.
            for key in ("area", "bbox", "bbox_mode"):
                annotation.pop(key, None)
