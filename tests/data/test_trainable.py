"""Splits that a task can learn nothing of stop before the first iteration."""

import pytest

from segzoo.data.trainable import check_trainable
from segzoo.errors import InputError


def record(key, *segments):
    """A dataset dict with segments (isthing, iscrowd)."""
    return {key: [{"isthing": bool(thing), "iscrowd": crowd} for thing, crowd in segments]}


def check(records, task):
    check_trainable(records, task, ["x_train"], "x.yaml")


CROWDS = [record("annotations", (1, 1), (1, 1)), record("annotations")]
STUFF = [record("segments_info", (0, 0), (1, 1))]


@pytest.mark.parametrize(
    ("records", "task", "message"),
    [
        (CROWDS, "instance", "all 2 objects have iscrowd 1.*set crowd: instances in x.yaml"),
        (CROWDS, "panoptic", "all 2 objects have iscrowd 1"),
        (CROWDS, "entity", "all 2 objects have iscrowd 1"),
        (STUFF, "instance", "all 1 objects have iscrowd 1"),
        ([record("segments_info", (0, 0))], "instance", "none of 1 segments is of a class with isthing true"),
        ([record("annotations")] * 2, "instance", "nothing is annotated"),
    ],
)
def test_nothing_to_learn_stops(records, task, message):
    with pytest.raises(InputError, match=message):
        check(records, task)


@pytest.mark.parametrize(
    ("records", "task"),
    [
        (CROWDS, "semantic"),
        (STUFF, "panoptic"),
        (STUFF, "entity"),
        ([*CROWDS, record("annotations", (1, 0))], "instance"),
        ([{"sem_seg_file_name": "a.png"}], "instance"),
        ([], "instance"),
    ],
)
def test_what_may_be_learned_passes(records, task):
    check(records, task)
