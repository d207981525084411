"""Segment targets: map and planes are equivalent, and the mapper's output is padded with no segment."""

import pytest
import torch
import torch.nn.functional as F

from segzoo.modeling.mask_classification.criterion import SegmentTargets, targets_from_inputs


@pytest.fixture
def target(make_scene):
    return make_scene(size=(21, 17)).targets[1]


@pytest.fixture
def planes(make_scene):
    return make_scene(size=(21, 17)).targets_as_planes()[1]


def test_pixel_lists_have_the_pixels_of_every_segment(target, planes):
    indices, areas = target.pixel_lists()
    for segment, own in enumerate(indices.split(areas)):
        assert torch.equal(own, planes.masks[segment].flatten().nonzero()[:, 0])
    from_planes = planes.pixel_lists()
    assert torch.equal(from_planes[0], indices)
    assert from_planes[1] == areas


def test_one_hot_of_a_map_equals_its_planes(target, planes):
    expected = planes.masks.flatten(1).t().float()
    assert torch.equal(target.one_hot(0, 357), expected)
    assert torch.equal(target.one_hot(40, 90), expected[40:90])
    assert torch.equal(planes.one_hot(40, 90), expected[40:90])


@pytest.mark.parametrize("size", [(5, 6), (10, 17), (1, 1), (40, 33)])
def test_nearest_resize_equals_interpolation_of_the_planes(target, planes, size):
    expected = F.interpolate(planes.masks[None].float(), size=size, mode="nearest")[0]
    resized = target.resize_nearest(size)
    assert resized.size == size
    assert torch.equal(resized.one_hot(0, size[0] * size[1]).t(), expected.flatten(1))
    assert torch.equal(planes.resize_nearest(size).masks.float(), expected)


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("as_planes", [False, True])
def test_resizing_keeps_other_targets_of_the_segments(count, as_planes):
    labels = {"masks": torch.ones(count, 4, 6, dtype=torch.bool)}
    if not as_planes:
        labels = {"segment_map": torch.full((4, 6), count - 1, dtype=torch.int16)}
    boxes = torch.rand(count, 4)
    target = SegmentTargets(torch.arange(count), **labels, extras={"boxes": boxes})
    resized = target.resize_nearest((8, 3))
    assert resized.size == (8, 3)
    assert torch.equal(resized.extras["boxes"], boxes)
    assert torch.equal(resized.classes, target.classes)


def test_samples_equal_grid_sample_of_the_planes(target, planes):
    points = torch.rand(5, 200, 2) * 1.1 - 0.05  # some outside
    segments = torch.tensor([4, 0, 1, 2, 0])
    selected = planes.masks[segments].float()[:, None]
    expected = F.grid_sample(selected, 2 * points[:, None] - 1, align_corners=False)[:, 0, 0]
    torch.testing.assert_close(target.sample(segments, points), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(planes.sample(segments, points), expected, atol=2e-5, rtol=0)
    shared = target.sample(segments, points[:1])
    torch.testing.assert_close(shared[0], target.sample(segments[:1], points[:1])[0])


def test_inputs_are_padded_with_no_segment():
    inputs = {
        "segment_map": torch.zeros(2, 3, dtype=torch.int16),
        "segment_classes": torch.tensor([7]),
    }
    overlapping = {
        "segment_masks": torch.ones(2, 4, 2, dtype=torch.bool),
        "segment_classes": torch.tensor([1, 2]),
    }
    first, second = targets_from_inputs([inputs, overlapping], (4, 5), "cpu")
    assert first.segment_map.tolist() == [[0, 0, 0, -1, -1]] * 2 + [[-1] * 5] * 2
    assert first.classes.tolist() == [7]
    assert second.size == (4, 5)
    assert second.masks[:, :, :2].all()
    assert not second.masks[:, :, 2:].any()


def test_an_image_without_targets_is_named():
    with pytest.raises(ValueError, match=r"a\.jpg: training needs segment_classes"):
        targets_from_inputs([{"file_name": "a.jpg", "image": None}], (4, 4), "cpu")


def test_labels_larger_than_the_batch_are_named():
    inputs = {"file_name": "a.jpg", "segment_map": torch.zeros(9, 3), "segment_classes": torch.tensor([0])}
    with pytest.raises(ValueError, match=r"a\.jpg: labels of 9x3 do not fit the batch's 4x4"):
        targets_from_inputs([inputs], (4, 4), "cpu")


def test_map_and_masks_together_are_refused():
    with pytest.raises(ValueError, match="either"):
        SegmentTargets(torch.zeros(1, dtype=torch.int64))
