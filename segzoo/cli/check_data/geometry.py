"""The areas and boxes of a COCO JSON, compared with the masks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pycocotools import mask as mask_tools
from scipy import ndimage

from segzoo.data.label_ops import count_values
from segzoo.data.label_reader import IndexMap, LabelReader
from segzoo.utils.json_values import is_box, is_positive, shown

# An area or box is wrong if it is off by more than this factor.
FACTOR = 2
# Pixels by which the edge of a box may be off: it may be that of a polygon's outline.
_EDGE = 2


def wrong_geometry(record: Mapping[str, Any], reader: LabelReader, index_map: IndexMap | None) -> list[str]:
    """Return a line for each annotation whose `area` or `bbox` differs by more than a factor of two.

    Missing ones are computed where they are needed and not reported here; nor are those of an instances JSON
    that are no positive numbers, which its reader drops with a warning.

    Args:
        index_map: that of `LabelReader.load_index_map`, if the image has segments.

    Raises:
        InputError: the labels cannot be read.
    """
    if "annotations" in record:
        return list(_compare_instances(record, reader))
    if "pan_seg_file_name" in record and index_map is not None:
        return list(_compare_segments(record, index_map))
    return []


def _compare_instances(record: Mapping[str, Any], reader: LabelReader) -> Iterator[str]:
    for annotation, instance in zip(record["annotations"], reader.load_instances(record), strict=True):
        code = instance["segmentation"]
        box = mask_tools.toBbox(code).tolist()
        # The area of a polygon differs from the number of its pixels along its outline.
        outline = box[2] + box[3] if isinstance(annotation["segmentation"], list) else 0
        described = f"{record['file_name']}: annotation {shown(annotation.get('id'))}"
        yield from _compare(annotation, float(mask_tools.area(code)), box, described, outline)


def _compare_segments(record: Mapping[str, Any], index_map: IndexMap) -> Iterator[str]:
    listed, indices = record["segments_info"], index_map.indices
    areas = count_values(indices)[1 : len(listed) + 1].tolist()
    windows = ndimage.find_objects(indices, len(listed))[: len(listed)]
    for segment, area, (rows, columns) in zip(listed, areas, windows, strict=True):
        box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
        yield from _compare(segment, area, box, f"{record['file_name']}: segment {segment['id']}")


def _compare(
    entry: Mapping[str, Any], area: float, box: Sequence[float], described: str, slack: float = 0
) -> Iterator[str]:
    """Yield a line if an entry's area differs from the measured one, and one if its box does.

    Args:
        slack: pixels by which an area may differ in any case.
    """
    stated = entry.get("area", area)
    if not is_positive(stated) or (
        not area / FACTOR <= stated <= area * FACTOR and abs(stated - area) > slack
    ):
        yield f"{described}: area {shown(stated)}, measured {area:.0f}"
    stated = entry.get("bbox", box)
    if not is_box(stated) or _far_apart(stated, box):
        yield f"{described}: bbox {shown(stated)}, measured {shown([round(side) for side in box])}"


def _far_apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether two boxes [x, y, width, height] have less than half of their union in common."""
    edges = [(left, top, left + width, top + height) for left, top, width, height in (one, other)]
    if all(abs(a - b) <= _EDGE for a, b in zip(*edges, strict=True)):
        return False
    left, top = (max(edge[k] for edge in edges) for k in (0, 1))
    right, bottom = (min(edge[k] for edge in edges) for k in (2, 3))
    shared = max(right - left, 0) * max(bottom - top, 0)
    union = one[2] * one[3] + other[2] * other[3] - shared
    return shared * FACTOR < union
