"""Segment targets: map and planes are equivalent, and the mapper's output is padded with no segment."""

import pytest
import torch
import torch.nn.functional as F

from segzoo.modeling.mask_classification.criterion import SegmentTargets, targets_from_inputs
from segzoo.modeling.mask_classification.criterion.target_batch import TargetBatch


@pytest.fixture
def target(make_scene):
    return make_scene(size=(21, 17)).targets[1]


@pytest.fixture
def planes(make_scene):
    return make_scene(size=(21, 17)).targets_as_planes()[1]


@pytest.fixture(params=["maps", "planes", "both"])
def batch(request, make_scene):
    """A batch of three images, one without segments, and its planes, (S, 21, 17) bool each."""
    scene = make_scene(size=(21, 17), num_segments=(3, 0, 5))
    planes = scene.targets_as_planes()
    as_planes = {"maps": (), "planes": (0, 1, 2), "both": (2,)}[request.param]
    targets = [planes[image] if image in as_planes else scene.targets[image] for image in range(3)]
    return TargetBatch(targets), [target.masks for target in planes]


def padded(values: torch.Tensor, count: int) -> torch.Tensor:
    """Append columns of 0, up to `count`."""
    return F.pad(values.float(), (0, count - values.shape[-1]))


def test_one_hot_of_a_batch_equals_the_planes(batch):
    batch, planes = batch
    assert (batch.counts, batch.first, batch.most, batch.size) == ([3, 0, 5], [0, 3, 3], 5, (21, 17))
    expected = torch.stack([padded(own.flatten(1).t(), 5) for own in planes])
    assert torch.equal(batch.one_hot(range(3), 0, 357, torch.float32), expected)
    assert torch.equal(batch.one_hot(range(1, 3), 40, 90, torch.float32), expected[1:, 40:90])


@pytest.mark.parametrize("size", [(5, 6), (10, 17), (1, 1), (40, 33)])
def test_nearest_resize_equals_interpolation_of_the_planes(batch, size):
    batch, planes = batch
    resized = batch.resized(size)
    assert resized.size == size
    found = resized.one_hot(range(3), 0, size[0] * size[1], torch.float32)
    for image in (0, 2):
        expected = F.interpolate(planes[image][None].float(), size=size, mode="nearest")[0]
        assert torch.equal(found[image], padded(expected.flatten(1).t(), 5))
    assert not found[1].any()
    assert batch.size == (21, 17)


def test_samples_of_a_batch_equal_grid_sample_of_the_planes(batch):
    batch, planes = batch
    points = torch.rand(4, 200, 2) * 1.1 - 0.05  # some outside

    def sampled(maps, where):
        grid = (2 * where - 1).expand(len(maps), 1, -1, -1)
        return F.grid_sample(maps.float()[:, None], grid, align_corners=False)[:, 0, 0]

    found = batch.sample_all(range(3), points[:3])
    for image in (0, 2):
        expected = padded(sampled(planes[image], points[image]).t(), 5)
        torch.testing.assert_close(found[image], expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(batch.sample_all(range(2, 3), points[2:3]), found[2:])
    assert not found[1].any()

    images, segments = torch.tensor([2, 0, 2, 0]), torch.tensor([4, 0, 1, 2])
    pairs = list(zip(images.tolist(), segments.tolist(), points, strict=True))
    expected = torch.cat([sampled(planes[image][segment][None], own) for image, segment, own in pairs])
    torch.testing.assert_close(batch.sample(images, segments, points), expected, atol=2e-5, rtol=0)
    expected = torch.stack([planes[image][segment].flatten() for image, segment, _ in pairs])
    assert torch.equal(batch.members(images, segments, torch.float64), expected.double())


def test_classes_of_a_batch_are_padded(make_scene):
    targets = make_scene(num_segments=(1, 3)).targets
    first, second = (target.classes.tolist() for target in targets)
    assert TargetBatch(targets).padded_classes().tolist() == [[*first, 0, 0], second]


def test_targets_of_different_sizes_are_refused(make_scene):
    targets = [make_scene(size=size).targets[0] for size in ((21, 17), (17, 21))]
    with pytest.raises(ValueError, match=r"one size, found \[\(17, 21\), \(21, 17\)\]"):
        TargetBatch(targets)


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
