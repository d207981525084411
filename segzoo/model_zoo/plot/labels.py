"""Places for the names beside points, where there is room."""

import math
from collections.abc import Callable, Iterable, Mapping

Box = tuple[float, float, float, float]  # left, bottom, right, top
# Offsets of a label from its point, the second upward; the first free one is used.
OFFSETS = [(7, 3), (-7, 3), (7, -10), (-7, -10), (0, 8), (0, -15), (9, 9), (-9, 9), (9, -15), (-9, -15)]


def free_offsets(
    names: Iterable[str],
    box_of: Callable[[str, tuple[float, float]], Box],
    centers: Mapping[str, tuple[float, float]],
    frame: Box,
    radius: float,
) -> dict[str, tuple[float, float]]:
    """Return the offset of each label for which there is one.

    No label overlaps another or a point, leaves the frame, or is nearer to another point than to its own.

    Args:
        names: the points to label, the most important first.
        box_of: the box of a point's label at an offset.
        centers: all points.
        frame: what labels stay in.
        radius: half the side of a point's marker.
    """
    taken = [(x - radius, y - radius, x + radius, y + radius) for x, y in centers.values()]
    found = {}
    for name in names:
        others = [center for other, center in centers.items() if other != name]
        for offset in OFFSETS:
            box = box_of(name, offset)
            own = _distance(box, centers[name])
            if (
                frame[0] <= box[0]
                and frame[1] <= box[1]
                and box[2] <= frame[2]
                and box[3] <= frame[3]
                and all(_distance(box, center) > own for center in others)
                and not any(_overlap(box, other) for other in taken)
            ):
                taken.append(box)
                found[name] = offset
                break
    return found


def _overlap(one: Box, other: Box) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _distance(box: Box, center: tuple[float, float]) -> float:
    """Return the distance from a point to a box."""
    x, y = center
    return math.hypot(max(box[0] - x, 0, x - box[2]), max(box[1] - y, 0, y - box[3]))
