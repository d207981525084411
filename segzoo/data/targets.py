"""Grouping augmented segments into the targets of a task: one pure function per task.

The functions only regroup segments in a small table; pixels are looked up once, at the end.

Shape shorthand: H, W pixels; S segments before, T target segments after; K classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from segzoo.utils.tasks import TASKS, Task

from .label_ops import count_values, look_up
from .label_reader import IndexMap, Segments


class Targets(NamedTuple):
    """The targets of one image for mask classification.

    Attributes:
        segment_map: (H, W) int16: index in [0, T) of the target segment that covers a pixel, -1 if none does
            (void, crowd, padding, classes that the task does not predict).
        classes: (T,) int64 class of each target segment. Every target segment has at least one pixel.
    """

    segment_map: np.ndarray
    classes: np.ndarray


class MaskTargets(NamedTuple):
    """The targets of one image whose segments may overlap.

    Attributes:
        masks: (T, H, W) bool, each with at least one pixel.
        classes: (T,) int64 class of each.
    """

    masks: np.ndarray
    classes: np.ndarray


class Groups(NamedTuple):
    """The assignment of segments to targets.

    Attributes:
        of_segment: (S,) int64 group of each segment, -1 for none. Groups are numbered in target order.
        classes: (number of groups,) int64 class of each group.
    """

    of_segment: np.ndarray
    classes: np.ndarray


def semantic_groups(segments: Segments, is_thing: np.ndarray) -> Groups:
    """Group segments by class, crowds included, in the order of the classes.

    Args:
        segments: of the image.
        is_thing: (K,) bool, whether a class has instances.
    """
    classes, of_segment = np.unique(segments.classes, return_inverse=True)
    return Groups(of_segment.reshape(-1), classes)


def panoptic_groups(segments: Segments, is_thing: np.ndarray) -> Groups:
    """Make one group per instance of a thing class and one per stuff class, without crowds."""
    things = is_thing[segments.classes]
    # Stuff segments of a class share a key; every instance has its own.
    keys = np.where(things, len(is_thing) + np.arange(len(things)), segments.classes)
    return _group_by(keys, segments.classes, ~segments.is_crowd)


def entity_groups(segments: Segments, is_thing: np.ndarray) -> Groups:
    """Make one group of class 0 per segment, without crowds (Open-World Entity Segmentation, section 3)."""
    keys = np.arange(len(segments.classes))
    return _group_by(keys, np.zeros_like(keys), ~segments.is_crowd)


def instance_groups(segments: Segments, is_thing: np.ndarray) -> Groups:
    """Make one group per instance of a thing class; class indices count the thing classes only."""
    among_things = np.cumsum(is_thing) - 1
    keys = np.arange(len(segments.classes))
    kept = is_thing[segments.classes] & ~segments.is_crowd
    return _group_by(keys, among_things[segments.classes], kept)


Grouping = Callable[[Segments, np.ndarray], Groups]

#: {task: the segments of an image and whether each class is a thing, (K,) bool, to the groups}.
GROUPS: dict[str, Grouping] = {
    "semantic": semantic_groups,
    "panoptic": panoptic_groups,
    "entity": entity_groups,
    "instance": instance_groups,
}


def register_task(
    name: str,
    grouping: Grouping,
    *,
    classes: str = "all",
    target: str = "segment",
    from_classes: bool = False,
) -> None:
    """Add a task, a value of TASK, or replace the one of the same name.

    Args:
        grouping: groups segments into targets, as `panoptic_groups` does.
        classes: the classes that a model predicts: "all" of the dataset, its "things", or "one" for all.
        target: name of a target in messages about images that have none.
        from_classes: whether the class of each pixel suffices, without segments.

    Raises:
        ValueError: `classes` is none of these.
    """
    if classes not in ("all", "things", "one"):
        raise ValueError(f"register_task: classes {classes!r}; expected all, things or one")
    TASKS[name] = Task(classes, target, from_classes)
    GROUPS[name] = grouping


def build_targets(index_map: IndexMap, groups: Groups) -> Targets:
    """Look up the target of every pixel; a group without pixels, e.g. cropped away, is not a target.

    Args:
        index_map: map of the augmented image; indices above S, which padding may leave, are void.
        groups: groups of its segments.
    """
    indices = index_map.indices
    count = len(groups.of_segment)
    kept = groups.of_segment >= 0
    present = present_groups(index_map, groups)
    position = np.where(present, np.cumsum(present) - 1, -1)
    table = np.full(np.iinfo(indices.dtype).max + 1, -1, dtype=np.int16)
    table[1 : count + 1][kept] = position[groups.of_segment[kept]]
    return Targets(look_up(table, indices), groups.classes[present])


def build_mask_targets(index_map: IndexMap, groups: Groups) -> MaskTargets:
    """Build the masks of the targets of an index map with `members`; targets without pixels are left out.

    Augmentation sees a single map, however many segments overlap; masks are formed only here.
    """
    indices = index_map.indices
    in_group = region_groups(index_map, groups)
    regions = len(in_group)
    occurs = count_values(indices)[:regions] > 0
    present = in_group[occurs].any(axis=0)
    table = np.zeros((np.count_nonzero(present), np.iinfo(indices.dtype).max + 1), dtype=np.uint8)
    table[:, :regions] = in_group.T[present]
    masks = np.empty((len(table), *indices.shape), dtype=bool)
    for mask, row in zip(masks, table, strict=True):
        mask[...] = look_up(row, indices)
    return MaskTargets(masks, groups.classes[present])


def present_groups(index_map: IndexMap, groups: Groups) -> np.ndarray:
    """Return which of the G groups have pixels, (G,) bool."""
    if index_map.members is None:
        kept, count = groups.of_segment >= 0, len(groups.of_segment)
        areas = count_values(index_map.indices)[1 : count + 1]
        return np.bincount(groups.of_segment[kept], areas[kept], minlength=len(groups.classes)) > 0
    in_group = region_groups(index_map, groups)
    return in_group[count_values(index_map.indices)[: len(in_group)] > 0].any(axis=0)


def region_groups(index_map: IndexMap, groups: Groups) -> np.ndarray:
    """Return (A + 1, G) bool: whether the pixels of each of the A + 1 indices of a map belong to a group."""
    of_segment, members = groups.of_segment, index_map.members
    if members is None:
        members = np.eye(len(of_segment) + 1, dtype=bool)[:, 1:]
    in_group = np.zeros((len(members), len(groups.classes)), dtype=bool)
    kept = np.flatnonzero(of_segment >= 0)
    np.logical_or.at(in_group.T, of_segment[kept], members.T[kept])
    return in_group


def _group_by(keys: np.ndarray, classes: np.ndarray, kept: np.ndarray) -> Groups:
    """Group the kept segments by key, in the order in which keys first occur."""
    of_segment = np.full(len(keys), -1, dtype=np.int64)
    _, first, inverse = np.unique(keys[kept], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    of_segment[kept] = rank[inverse.reshape(-1)]
    return Groups(of_segment, classes[kept][np.sort(first)].astype(np.int64))
