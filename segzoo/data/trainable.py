"""Whether a task can learn anything of a split, as far as its annotations tell without opening an image."""

from collections.abc import Mapping, Sequence
from typing import Any

from segzoo.errors import InputError


def check_trainable(
    records: Sequence[Mapping[str, Any]], task: str, names: Sequence[str], source: str
) -> None:
    """Finds splits of which every image would be one without an object.

    Args:
        records: dataset dicts. Those whose annotations are in label files are not looked at.
        task: semantic, panoptic, entity or instance.
        names: the registered names, and `source` their YAML: for messages.

    Raises:
        InputError: no segment or instance, or none that the task learns from.
    """
    if task == "semantic" or not records:
        return
    crowds, others = 0, 0
    for record in records:
        segments = record.get("segments_info", record.get("annotations"))
        if segments is None:
            return
        for segment in segments:
            if task == "instance" and not segment.get("isthing", True):
                others += 1
            elif segment["iscrowd"]:
                crowds += 1
            else:
                return
    where = f"DATASETS.TRAIN {tuple(names)}"
    if crowds:
        raise InputError(
            f"{where}: all {crowds} objects have iscrowd 1, groups that TASK {task} does not learn from; if "
            f"they are single objects, set crowd: instances in {source}"
        )
    found = f"none of {others} segments is of a class with isthing true" if others else "nothing is annotated"
    raise InputError(
        f"{where}: {found}, so that TASK {task} has nothing to learn; compare {source} with the JSON"
    )
