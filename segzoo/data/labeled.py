"""Checks that there are targets to learn from: in the records before training, in the batches during it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from segzoo.utils.errors import InputError
from segzoo.utils.tasks import TASKS

from .label_reader import Segments
from .targets import GROUPS


def check_labeled(
    datasets: Sequence[tuple[Sequence[Mapping[str, Any]], np.ndarray]], task: str, names: Sequence[str]
) -> None:
    """Raise InputError if no record has a target of the task; label files are not opened.

    Args:
        datasets: dataset dicts of each dataset, and (K,) bool, whether a class of it has instances.
        names: names of the datasets, for the message.
    """
    if TASKS[task].from_classes:
        return
    if any(_has_target(record, task, is_thing) for records, is_thing in datasets for record in records):
        return
    records = [record for listed, _ in datasets for record in listed]
    found = [one for record in records for one in record.get("segments_info", record.get("annotations"))]
    remedy = "run `segzoo check-data` on the dataset's file to see what to change"
    if found and all(one["iscrowd"] for one in found):
        remedy = "if they are single objects, set crowd: instances in the dataset's YAML"
    target = TASKS[task].target
    raise InputError(
        f"DATASETS.TRAIN {tuple(names)}: {len(records)} images without any {target} (of {len(found)} "
        f"in their JSON), so there is nothing to learn; {remedy}"
    )


def _has_target(record: Mapping[str, Any], task: str, is_thing: np.ndarray) -> bool:
    """Return whether a record has a target; one whose labels are in files alone counts as having some."""
    segments = record.get("segments_info", record.get("annotations"))
    if segments is None:
        return True
    classes = np.array([one["category_id"] for one in segments], dtype=np.int64)
    is_crowd = np.array([one["iscrowd"] for one in segments], dtype=bool)
    return bool((GROUPS[task](Segments(classes, is_crowd), is_thing).of_segment >= 0).any())


def holds_targets(batch: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether an image of a batch has a target.

    Args:
        batch: mapped dicts. Without `segment_classes` and `instances`, as from another mapper, they count as
            having targets.
    """
    return any(map(_holds_target, batch))


def _holds_target(sample: Mapping[str, Any]) -> bool:
    counted = [sample[key] for key in ("segment_classes", "instances") if key in sample]
    return any(len(one) > 0 for one in counted) or not counted
