"""Whether there is anything to learn: in the dataset dicts before a training, in the batches during it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from segzoo.utils.errors import InputError
from segzoo.utils.tasks import TASKS

from .label_reader import Segments
from .targets import GROUPS


def check_labeled(
    records: Sequence[Mapping[str, Any]], task: str, is_thing: np.ndarray, names: Sequence[str]
) -> None:
    """Look for a target of the task in what JSONs say of the images; label files are not opened.

    Args:
        records: dataset dicts.
        is_thing: (K,) bool, whether a class has instances.
        names: the datasets, for the message.

    Raises:
        InputError: there is none.
    """
    if TASKS[task].from_classes:
        return
    for record in records:
        segments = record.get("segments_info", record.get("annotations"))
        if segments is None:
            return
        classes = np.array([one["category_id"] for one in segments], dtype=np.int64)
        is_crowd = np.array([one["iscrowd"] for one in segments], dtype=bool)
        if (GROUPS[task](Segments(classes, is_crowd), is_thing).of_segment >= 0).any():
            return
    found = [one for record in records for one in record.get("segments_info", record.get("annotations"))]
    remedy = "`segzoo check-data` on the dataset's file says what to change"
    if found and all(one["iscrowd"] for one in found):
        remedy = "if they are single objects, set crowd: instances in the dataset's YAML"
    target = TASKS[task].target
    raise InputError(
        f"DATASETS.TRAIN {tuple(names)}: {len(records)} images without any {target} (of {len(found)} "
        f"in their JSON), so that there is nothing to learn; {remedy}"
    )


def holds_targets(batch: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether an image of a batch of mapped dicts has a target; those of another mapper count as if.

    Args:
        batch: of `SegmentationMapper`, with `segment_classes` or `instances`.
    """
    return any(map(_holds_target, batch))


def _holds_target(sample: Mapping[str, Any]) -> bool:
    counted = [sample[key] for key in ("segment_classes", "instances") if key in sample]
    return any(len(one) > 0 for one in counted) or not counted
