"""Targets of every task against targets worked out by hand."""

import numpy as np
import pytest

from segzoo.data.label_reader import IndexMap, Segments
from segzoo.data.targets import GROUPS, build_targets

# Classes: 0 road (stuff), 1 car, 2 sky (stuff), 3 person.
IS_THING = np.array([False, True, False, True])
# Segments 0 sky, 1 car, 2 car, 3 person, 4 crowd of persons, 5 road, 6 road once more.
SEGMENTS = Segments(np.array([2, 1, 1, 3, 3, 0, 0]), np.array([0, 0, 0, 0, 1, 0, 0], dtype=bool))
PIXELS = np.array([[0, 1, 1, 2, 2, 3], [4, 4, 5, 5, 6, 7]], dtype=np.uint8)

EXPECTED = {
    # road, car, sky, person
    "semantic": ([[-1, 2, 2, 1, 1, 1], [3, 3, 3, 3, 0, 0]], [0, 1, 2, 3]),
    # sky, car, car, person, road
    "panoptic": ([[-1, 0, 0, 1, 1, 2], [3, 3, -1, -1, 4, 4]], [2, 1, 1, 3, 0]),
    "entity": ([[-1, 0, 0, 1, 1, 2], [3, 3, -1, -1, 4, 5]], [0, 0, 0, 0, 0, 0]),
    # car, car, person: classes among the things
    "instance": ([[-1, -1, -1, 0, 0, 1], [2, 2, -1, -1, -1, -1]], [0, 0, 1]),
}


def targets_of(task, pixels, segments=SEGMENTS, is_thing=IS_THING):
    return build_targets(IndexMap(pixels, segments), GROUPS[task](segments, is_thing))


@pytest.mark.parametrize("task", GROUPS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_targets_are_those_worked_out_by_hand(task, dtype):
    targets = targets_of(task, PIXELS.astype(dtype))
    assert targets.segment_map.dtype == np.int16
    assert targets.classes.dtype == np.int64
    assert targets.segment_map.tolist() == EXPECTED[task][0]
    assert targets.classes.tolist() == EXPECTED[task][1]


@pytest.mark.parametrize("task", GROUPS)
def test_a_segment_that_is_cropped_away_is_not_a_target(task):
    whole, cropped = targets_of(task, PIXELS), targets_of(task, PIXELS[:, 3:])
    assert sorted(set(cropped.segment_map.ravel()) - {-1}) == list(range(len(cropped.classes)))
    # Every pixel keeps its class.
    classes = np.append(whole.classes, -1)[whole.segment_map[:, 3:]]
    assert np.array_equal(np.append(cropped.classes, -1)[cropped.segment_map], classes)


@pytest.mark.parametrize("task", GROUPS)
def test_an_image_may_have_no_segments(task):
    void = targets_of(task, np.zeros((3, 4), dtype=np.uint8))
    assert (void.segment_map == -1).all()
    assert void.classes.shape == (0,)
    nothing = Segments(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool))
    assert targets_of(task, np.zeros((3, 4), dtype=np.uint8), nothing).classes.shape == (0,)


@pytest.mark.parametrize("task", GROUPS)
def test_indices_that_no_segment_has_are_void(task):
    # Foreign augmentations pad with 255.
    targets = targets_of(task, np.array([[255, 1, 8]], dtype=np.uint8))
    assert targets.segment_map[0, 0] == targets.segment_map[0, 2] == -1


def test_a_crowd_is_its_class_for_the_semantic_task_only():
    crowd = np.full((2, 2), 5, dtype=np.uint8)
    assert targets_of("semantic", crowd).classes.tolist() == [3]
    for task in ("panoptic", "entity", "instance"):
        assert targets_of(task, crowd).classes.tolist() == []


def test_instance_classes_count_the_things_only():
    segments = Segments(np.array([3, 1]), np.zeros(2, dtype=bool))
    assert targets_of("instance", np.array([[1, 2]], dtype=np.uint8), segments).classes.tolist() == [1, 0]
