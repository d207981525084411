"""Pasted masks against Detectron2's function, and by hand."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import mask_ops, paste_masks_in_image

from segzoo.modeling.detection import paste, paste_masks

SIZE = (61, 87)


def drawn(count, side, sharpness, seed=0):
    """Masks of smooth shapes, and boxes that are small, large, thin or beyond the image."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 5, 5, generator=generator)
    masks = F.interpolate(coarse, (side, side), mode="bicubic")[:, 0] * sharpness
    center = torch.rand(count, 2, generator=generator) * torch.tensor([SIZE[1], SIZE[0]])
    extent = torch.exp(5 * torch.rand(count, 2, generator=generator) - 0.7)
    boxes = torch.cat([center - extent / 2, center + extent / 2], dim=1)
    boxes[::3] = boxes[::3].round()
    return masks.sigmoid(), boxes


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("sharpness", [0.5, 4.0, 100.0])
@pytest.mark.parametrize("side", [1, 7, 28])
def test_masks_are_those_of_detectron2(side, sharpness, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(paste, "load_loops", lambda module: None)
    masks, boxes = drawn(60, side, sharpness)
    # Its function needs boxes that reach into the image.
    inside = (boxes[:, 2:] > -1).all(1) & (boxes[:, 0] < SIZE[1]) & (boxes[:, 1] < SIZE[0])
    inside &= (boxes[:, 2:] - boxes[:, :2] > 0).all(1)
    masks, boxes = masks[inside], boxes[inside]
    expected = paste_masks_in_image(masks, boxes, SIZE)
    assert expected.flatten(1).any(1).sum() > 20
    found = paste_masks(masks, boxes, SIZE)
    assert found.dtype == torch.bool
    assert torch.equal(found, expected)
    # Its form for GPUs, which samples every pixel of the image.
    everywhere, _ = mask_ops._do_paste_mask(masks[:, None], boxes, *SIZE, skip_empty=False)
    assert torch.equal(found, everywhere >= 0.5)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.75, 1.0])
def test_values_at_the_threshold_belong_to_the_mask(threshold):
    """Masks of few values, so that whole regions are equal to the threshold, or within rounding of it."""
    generator = torch.Generator().manual_seed(1)
    masks = torch.randint(0, 3, (40, 6, 6), generator=generator) * threshold / 2
    masks[::2] = threshold
    _, boxes = drawn(40, 6, 1.0)
    boxes = (boxes * 2).round() / 2
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    boxes.clamp_(0, 60)
    boxes[:, :2] = torch.minimum(boxes[:, :2], boxes[:, 2:] - 1)
    expected = paste_masks_in_image(masks, boxes, SIZE, threshold)
    assert torch.equal(paste_masks(masks, boxes, SIZE, threshold), expected)


def test_more_pixels_at_the_threshold_than_there_is_place_for(monkeypatch):
    monkeypatch.setattr(paste, "_UNSURE", 10)
    masks, boxes = torch.full((1, 4, 4), 0.5), torch.tensor([[3.0, 4.0, 33.0, 24.0]])
    found = paste_masks(masks, boxes, SIZE)
    assert torch.equal(found, paste_masks_in_image(masks, boxes, SIZE))
    assert found[0, 7:21, 7:29].all()


def test_a_full_mask_fills_its_box():
    # Cells of less than two pixels: half of the outermost pixel is inside of the mask's values.
    masks, boxes = torch.ones(2, 9, 9), torch.tensor([[2.0, 3.0, 12.0, 9.0], [-4.0, 50.0, 7.0, 65.0]])
    expected = torch.zeros(2, *SIZE, dtype=torch.bool)
    expected[0, 3:9, 2:12] = True
    expected[1, 50:, :7] = True
    assert torch.equal(paste_masks(masks, boxes, SIZE), expected)


@pytest.mark.parametrize("compiled", [True, False])
def test_boxes_without_area_and_masks_without_values_have_no_pixels(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(paste, "load_loops", lambda module: None)
    boxes = torch.tensor(
        [[5, 5, 5, 9], [9, 5, 5, 9], [torch.nan, 5, 9, 9], [5, 5, torch.inf, 9], [5, 5, 9, 9], [5, 5, 9, 9.0]]
    )
    masks = torch.ones(6, 3, 3)
    masks[4] = torch.nan
    assert paste_masks(masks, boxes, SIZE).flatten(1).sum(1).tolist() == [0, 0, 0, 0, 0, 16]
    assert paste_masks(masks[:0], boxes[:0], SIZE).shape == (0, *SIZE)


@pytest.mark.parametrize("compiled", [True, False])
def test_boxes_beyond_the_image_have_no_pixels(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(paste, "load_loops", lambda module: None)
    boxes = torch.tensor([[200.0, 5.0, 220.0, 9.0], [5.0, -30.0, 9.0, -20.0], [-50.0, 90.0, -40.0, 99.0]])
    assert not paste_masks(torch.ones(3, 3, 3), boxes, SIZE).any()


def test_masks_of_a_model_in_half_precision_with_gradients():
    masks, boxes = drawn(10, 14, 4.0)
    inside = (boxes[:, 2:] > 0).all(1) & (boxes[:, 0] < SIZE[1]) & (boxes[:, 1] < SIZE[0])
    masks, boxes = masks[inside].bfloat16().requires_grad_(), boxes[inside]
    expected = paste_masks_in_image(masks.detach().float(), boxes, SIZE)
    assert torch.equal(paste_masks(masks, boxes, SIZE), expected)
