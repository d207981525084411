"""Combining a class map and instances into segments that share no pixel.

Shape shorthand: H, W pixels; K classes.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .instances import Instance

# Counts, by their names in reports.
OVERLAP = "pixels of several instances"
OTHER_CLASS = "pixels of instances on another class"
ON_VOID = "pixels of instances on void"
UNCOVERED = "pixels of thing classes without an instance"
CONTRADICTED = "instances mostly on another class"
HIDDEN = "instances without a visible pixel"
WITHOUT_CLASS = "instances on no thing class"


class Rules(NamedTuple):
    """The rules by which class map and instances are combined.

    Attributes:
        is_thing: (K,) bool.
        ignore_label: value of void pixels in class maps.
        order: which of two instances lies on top: "area", the smaller one, or "file", the earlier one.
        uncovered: what pixels of a thing class without an instance become: "crowd" or "void".
    """

    is_thing: np.ndarray
    ignore_label: int
    order: str = "area"
    uncovered: str = "crowd"


class Segment(NamedTuple):
    """A segment; its id is its position + 1."""

    class_index: int
    is_crowd: bool = False


class Painted(NamedTuple):
    """The segments of an image.

    Attributes:
        ids: (H, W) int32, 0 for void.
        segments: those of ids 1, 2, ...; each has a pixel. Stuff by class, then instances in their order,
            then a crowd for each class that has one.
        counts: {name, as above: number}.
    """

    ids: np.ndarray
    segments: list[Segment]
    counts: Counter


def paint(labels: np.ndarray, instances: Sequence[Instance], rules: Rules) -> Painted:
    """Paint instances on top, crowds below them, and what the class map says below these.

    Args:
        labels: (H, W) class indices, or the ignore label.
        instances: all with masks (H, W), in the order of the file.
    """
    counts: Counter = Counter()
    known = [(one, index) for one in instances if (index := _class_below(one, labels, rules)) is not None]
    counts[WITHOUT_CLASS] = len(instances) - len(known)
    owner = _stack([one for one, _ in known], labels.shape, rules.order, counts)
    covered = owner > 0
    counts[HIDDEN] = len(known) - len(np.setdiff1d(owner, 0))
    _compare(labels, owner, [index for _, index in known], rules, counts)

    ids = np.zeros(labels.shape, dtype=np.int32)
    segments: list[Segment] = []

    def add(mask: np.ndarray, segment: Segment) -> None:
        if mask.any():
            segments.append(segment)
            ids[mask] = len(segments)

    is_thing = np.zeros(rules.ignore_label + 1, dtype=bool)
    is_thing[: len(rules.is_thing)] = rules.is_thing
    left_over = is_thing[labels] & ~covered
    counts[UNCOVERED] = int(left_over.sum())
    present = np.setdiff1d(labels[~covered], rules.ignore_label)
    for index in present[~rules.is_thing[present]]:
        add((labels == index) & ~covered, Segment(int(index)))
    crowds: dict[int, np.ndarray] = {}
    for number, (one, index) in enumerate(known, 1):
        if one.is_crowd:
            crowds[index] = crowds.get(index, False) | (owner == number)
        else:
            add(owner == number, Segment(index))
    if rules.uncovered == "crowd":
        for index in present[rules.is_thing[present]].tolist():
            crowds[index] = crowds.get(index, False) | (left_over & (labels == index))
    for index in sorted(crowds):
        add(crowds[index], Segment(index, is_crowd=True))
    return Painted(ids, segments, counts)


def _class_below(instance: Instance, labels: np.ndarray, rules: Rules) -> int | None:
    """Return the instance's class, else the thing class of most of its pixels; None if it has neither."""
    if instance.class_index is not None:
        return instance.class_index
    pixels = np.bincount(labels[instance.mask], minlength=len(rules.is_thing))[: len(rules.is_thing)]
    pixels = pixels * rules.is_thing
    return int(pixels.argmax()) if pixels.any() else None


def _stack(instances: Sequence[Instance], shape: tuple[int, int], order: str, counts: Counter) -> np.ndarray:
    """Return (H, W) position + 1 of the instance on top of each pixel, 0 where there is none."""
    owner = np.zeros(shape, dtype=np.int32)
    areas = [int(one.mask.sum()) if order == "area" else 0 for one in instances]
    # From bottom to top; of two equal ones, the later is lower.
    upwards = sorted(range(len(instances)), key=lambda k: (not instances[k].is_crowd, -areas[k], -k))
    single, several = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for position in upwards:
        mask = instances[position].mask
        if not instances[position].is_crowd:
            several |= single & mask
            single |= mask
        owner[mask] = position + 1
    counts[OVERLAP] = int(several.sum())
    return owner


def _compare(
    labels: np.ndarray, owner: np.ndarray, classes: Sequence[int], rules: Rules, counts: Counter
) -> None:
    """Count pixels and instances whose class differs from the class map."""
    labels_each = rules.ignore_label + 1
    codes = owner[owner > 0] * np.int64(labels_each) + labels[owner > 0]
    pixels = np.bincount(codes)
    wrong, labeled = Counter(), Counter()
    for code in np.flatnonzero(pixels).tolist():
        (number, label), count = divmod(code, labels_each), int(pixels[code])
        if label == rules.ignore_label:
            counts[ON_VOID] += count
            continue
        labeled[number] += count
        if label != classes[number - 1]:
            counts[OTHER_CLASS] += count
            wrong[number] += count
    counts[CONTRADICTED] = sum(2 * wrong[number] > labeled[number] for number in labeled)
