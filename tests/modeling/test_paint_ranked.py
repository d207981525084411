"""Painting of ranked masks against all masks at full size, resized by PyTorch's operators."""

import pytest
import torch
import torch.nn.functional as F

from segzoo.modeling.detection import paint
from segzoo.modeling.detection.paint import aligned_weights, paint_ranked

# Size of the masks, factor of the upsampling, size of the image, size of the result.
SIZES = [
    ((20, 27), 4, (77, 105), (77, 105)),
    ((20, 27), 4, (80, 106), (151, 211)),
    ((20, 27), 4, (77, 105), (50, 33)),
    ((13, 20), 8, (100, 157), (150, 200)),
    ((30, 25), 1, (29, 25), (61, 50)),
]


def aligned(planes, factor):
    """Pixel k of (K, h, w) planes is at factor k + factor // 2; nearest values outside, lines between."""
    for axis in (1, 2):
        side = planes.shape[axis]
        position = ((torch.arange(factor * side) - factor // 2) / factor).clamp(0, side - 1)
        before = position.floor().long()
        after = (before + 1).clamp(max=side - 1)
        share = (position - before).view(-1, *[1] * (2 - axis))
        planes = planes.index_select(axis, before) * (1 - share) + planes.index_select(axis, after) * share
    return planes


def resizer(factor, image, output):
    def resized(mask):
        plane = aligned(mask[None], factor)[:, : image[0], : image[1]]
        return F.interpolate(plane[None], output, mode="bilinear", align_corners=False)[0, 0]

    return resized


def axes(sizes):
    size, factor, image, output = sizes
    return [aligned_weights(size[axis], factor, image[axis], output[axis]) for axis in (0, 1)]


def drawn(count, size, sharpness):
    """Smooth probabilities of round regions of different sizes."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(*(torch.arange(side).float() for side in size), indexing="ij")
    center = torch.rand(count, 2, 1, 1, generator=generator) * torch.tensor(size)[:, None, None]
    radius = 1 + 8 * torch.rand(count, 2, 1, 1, generator=generator)
    distance = ((y - center[:, 0]) / radius[:, 0]) ** 2 + ((x - center[:, 1]) / radius[:, 1]) ** 2
    noise = torch.randn(count, *size, generator=generator)
    return (sharpness * (1 - distance + 0.3 * noise)).sigmoid()


def at_full_size(masks, resized, threshold=0.5):
    """Return labels, areas, means and boxes, from all masks at full size."""
    planes = torch.stack([resized(mask) for mask in masks])
    inside = planes > threshold
    labels = torch.where(inside.any(0), inside.byte().argmax(0) + 1, 0).int()
    areas, means, boxes = [], [], []
    for index, plane in enumerate(planes):
        won = labels == index + 1
        areas.append(int(won.sum()))
        means.append(plane[won].double().mean().item() if won.any() else 0.0)
        y, x = won.nonzero().T
        boxes.append([x.min(), y.min(), x.max(), y.max()] if won.any() else None)
    return labels, areas, means, boxes


def check(found, expected):
    labels, areas, means, boxes = expected
    assert torch.equal(found.labels, labels)
    assert found.labels.dtype == torch.int32
    assert (found.areas, found.boxes) == (areas, boxes)
    assert found.means == pytest.approx(means, rel=1e-6)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("sharpness", [0.5, 3.0, 100.0])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_first_mask_that_covers_a_pixel_wins_it(sizes, sharpness, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(paint, "load_loops", lambda module: None)
    size, *rest = sizes
    masks, resized = drawn(25, size, sharpness), resizer(*rest)
    expected = at_full_size(masks, resized)
    assert sum(area > 0 for area in expected[1]) > 5
    check(paint_ranked(masks, *axes(sizes), resized), expected)


# In the last, a position that PyTorch rounds is on the other side of a pixel than the exact one.
@pytest.mark.parametrize("sizes", [*SIZES, ((107, 3), 4, (426, 12), (570, 12))])
def test_weights_are_those_of_the_operators(sizes):
    size, factor, image, output = sizes
    resized = resizer(factor, image, output)
    rows, columns = axes(sizes)
    for row in range(size[0]):
        mask = torch.zeros(size)
        mask[row] = 1
        found = sum(rows.weights[:, tap] * (rows.first + tap == row) for tap in range(3)).astype("float32")
        torch.testing.assert_close(torch.from_numpy(found), resized(mask)[:, 0], atol=1e-7, rtol=0)
    assert columns.source == size[1]


def test_values_at_the_threshold_are_not_inside(monkeypatch):
    """More pixels within rounding of the threshold than there is place for at first."""
    monkeypatch.setattr(paint, "_UNSURE", 10)
    size, *rest = sizes = SIZES[1]
    masks, resized = torch.full((3, *size), 0.5), resizer(*rest)
    masks[0, 5:9] += torch.linspace(0, 1e-6, 27)
    masks[2, :, 4] = 1
    expected = at_full_size(masks, resized)
    assert 1000 < expected[1][0] < 151 * 211 / 2
    check(paint_ranked(masks, *axes(sizes), resized), expected)


def test_masks_that_cover_nothing_and_no_masks():
    size, *rest = sizes = SIZES[0]
    masks = torch.zeros(3, *size)
    masks[1] = torch.nan
    for some in (masks, masks[:0]):
        found = paint_ranked(some, *axes(sizes), resizer(*rest))
        assert not found.labels.any()
        assert found.areas == [0] * len(some)
        assert found.boxes == [None] * len(some)


def test_masks_of_two_pixels():
    masks = torch.tensor([[[0.9, 0.1], [0.8, 0.2]]])
    weights = [aligned_weights(2, 4, 8, 8)] * 2
    resized = resizer(4, (8, 8), (8, 8))
    check(paint_ranked(masks, *weights, resized), at_full_size(masks, resized))
