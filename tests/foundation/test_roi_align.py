"""RoIAlign against its definition, written sample by sample. H W size of the features."""

import math

import pytest
import torch

from segzoo.layers.roi_align import roi_align

BOXES = torch.tensor(
    [
        [0.0, 4.0, 6.0, 40.0, 30.0],
        [1.0, 10.0, 3.0, 25.0, 44.0],
        [1.0, -9.0, -7.0, 12.0, 9.0],  # partly outside, on two sides
        [0.0, 30.0, 20.0, 90.0, 80.0],  # partly outside, on the others
        [0.0, 12.0, 12.0, 12.5, 12.25],  # smaller than a pixel
    ]
)


def sample(image, y, x):
    """Bilinear value of image (H, W) at (y, x); zero more than a pixel outside."""
    height, width = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, across = y - top, x - left
    upper = image[top][left] * (1 - across) + image[top][right] * across
    lower = image[bottom][left] * (1 - across) + image[bottom][right] * across
    return float(upper * (1 - down) + lower * down)


def definition(image, box, scale, height, width, sampling_ratio, aligned):
    """image (H, W) float64, box (4,) -> (height, width)."""
    offset = 0.5 if aligned else 0.0
    left, top, right, bottom = (float(value) * scale - offset for value in box)
    box_height, box_width = bottom - top, right - left
    if not aligned:
        box_height, box_width = max(box_height, 1.0), max(box_width, 1.0)
    rows = sampling_ratio if sampling_ratio > 0 else math.ceil(box_height / height)
    columns = sampling_ratio if sampling_ratio > 0 else math.ceil(box_width / width)
    output = torch.zeros(height, width)
    for i in range(height):
        for j in range(width):
            values = [
                sample(
                    image,
                    top + (i + (row + 0.5) / rows) * box_height / height,
                    left + (j + (column + 0.5) / columns) * box_width / width,
                )
                for row in range(rows)
                for column in range(columns)
            ]
            output[i, j] = sum(values) / len(values)
    return output


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_each_bin_is_the_mean_of_its_samples(sampling_ratio, aligned):
    features = torch.randn(2, 3, 14, 17, generator=torch.Generator().manual_seed(0))
    found = roi_align(features, BOXES, 0.25, 3, 4, sampling_ratio, aligned)
    assert found.shape == (5, 3, 3, 4)
    for index, (image, *box) in enumerate(BOXES.tolist()):
        for channel in range(3):
            expected = definition(
                features[int(image), channel].double(), box, 0.25, 3, 4, sampling_ratio, aligned
            )
            torch.testing.assert_close(found[index, channel], expected, atol=2e-5, rtol=0)


def test_gradients_are_those_of_finite_differences():
    features = torch.randn(1, 1, 5, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rois = torch.tensor([[0.0, 0.5, 1.0, 4.0, 4.5]])
    weights = torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(1))

    def loss(values):
        return (roi_align(values, rois, 1.0, 2, 2, 2, True) * weights).sum()

    (gradient,) = torch.autograd.grad(loss(features), features)
    for row, column in [(1, 1), (2, 3), (4, 4)]:
        step = torch.zeros_like(features)
        step[0, 0, row, column] = 0.5
        difference = loss(features + step) - loss(
            features - step
        )  # linear in the features: exact for any step
        assert gradient[0, 0, row, column].item() == pytest.approx(difference.item(), abs=1e-5)


def test_no_boxes_give_an_empty_output_with_a_gradient_path():
    features = torch.randn(1, 4, 5, 6, requires_grad=True)
    assert roi_align(features, torch.zeros(0, 5), 1.0, 7, 7, 0, True).shape == (0, 4, 7, 7)


def test_splitting_into_chunks_does_not_change_the_result(monkeypatch):
    features = torch.randn(2, 3, 14, 17, generator=torch.Generator().manual_seed(0))
    whole = roi_align(features, BOXES, 0.25, 3, 4, 2, True)
    monkeypatch.setattr("segzoo.layers.roi_align.VALUES_AT_A_TIME", 1)
    torch.testing.assert_close(roi_align(features, BOXES, 0.25, 3, 4, 2, True), whole, atol=1e-6, rtol=0)


def test_detectron2_roi_align_layer_uses_it_and_agrees():
    from detectron2.layers import ROIAlign

    features = torch.randn(2, 3, 14, 17, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = ROIAlign((3, 4), 0.25, 0, aligned=True)(features, BOXES)
    torch.testing.assert_close(found, roi_align(features, BOXES, 0.25, 3, 4, 0, True), atol=2e-5, rtol=0)
    found.sum().backward()
    assert features.grad.abs().sum() > 0
