"""Masks that samples share are Detectron2's BitMasks, without a copy for each sample."""

import pytest
import torch
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage
from torch.utils._python_dispatch import TorchDispatchMode

from segzoo.modeling.backbones import resnet
from segzoo.modeling.detection import shared_masks
from segzoo.modeling.detection.shared_masks import SharedBitMasks
from tests.modeling.mask_rcnn_peers import TOY, VARIANT, build_peers, make_inputs

SIZE = (37, 53)


def masks_and_boxes(objects=5, samples=40):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(objects, 1, 5, 7, generator=generator)
    planes = torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear")[:, 0] > 0.5
    first = torch.rand(samples, 2, generator=generator) * 30
    boxes = torch.cat([first, first + 1 + 20 * torch.rand(samples, 2, generator=generator)], 1)
    return planes, torch.randint(0, objects, (samples,), generator=generator), boxes


@pytest.mark.parametrize("pixels", [1, 2 * SIZE[0] * SIZE[1], 2**23])
def test_targets_are_those_of_detectron2(pixels, monkeypatch):
    monkeypatch.setattr(shared_masks, "PIXELS_AT_ONCE", pixels)
    planes, index, boxes = masks_and_boxes()
    found, expected = (one(planes)[index] for one in (SharedBitMasks, BitMasks))
    targets = expected.crop_and_resize(boxes, 28)
    assert 0.2 < targets.float().mean() < 0.8
    assert torch.equal(found.crop_and_resize(boxes, 28), targets)
    assert found[:0].crop_and_resize(boxes[:0], 28).shape == (0, 28, 28)
    assert SharedBitMasks(planes[:0]).crop_and_resize(boxes[:0], 14).shape == (0, 14, 14)


FLAGS = torch.arange(40) % 3 == 0


@pytest.mark.parametrize("item", [3, slice(4, 20, 3), FLAGS, torch.tensor([7, 7, 0])], ids=str)
def test_they_are_selected_as_detectron2s(item):
    planes, index, _ = masks_and_boxes()
    found, expected = (one(planes)[index][item] for one in (SharedBitMasks, BitMasks))
    assert isinstance(found, BitMasks)
    assert len(found) == len(expected)
    assert found.image_size == expected.image_size
    assert found.planes is planes
    assert torch.equal(found.tensor, expected.tensor)
    assert torch.equal(torch.stack(list(found)), torch.stack(list(expected)))
    assert torch.equal(found.nonempty(), expected.nonempty())
    assert torch.equal(found.get_bounding_boxes().tensor, expected.get_bounding_boxes().tensor)
    assert torch.equal(found.to("cpu").tensor, expected.tensor)
    both = SharedBitMasks.cat([found, found])
    assert torch.equal(both.tensor, BitMasks.cat([expected, expected]).tensor)


class PlanesFormed(TorchDispatchMode):
    """The numbers of planes of (height, width) in the tensors that operators return."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes, self.planes = sizes, [0]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dim() > 2 and tuple(result.shape[-2:]) in self.sizes:
            self.planes.append(result.shape[:-2].numel())
        return result


@pytest.mark.parametrize("kind", ["c4", "fpn"])
def test_a_training_step_forms_no_plane_for_each_sample(kind, monkeypatch):
    monkeypatch.setitem(resnet.VARIANTS, VARIANT, TOY)
    peers, batch = build_peers(kind), make_inputs("bitmask")
    objects = max(len(one["instances"]) for one in batch)
    sizes = [one["instances"].image_size for one in batch]
    formed = []
    for model in (peers.ours, peers.theirs):
        model.train()
        torch.manual_seed(7)
        with EventStorage(), PlanesFormed(sizes) as planes:
            assert model(batch)["loss_mask"] > 0
        formed.append(max(planes.planes))
    assert formed[0] <= max(objects, 3)  # an image has three
    assert formed[1] == 48  # of Detectron2's, one for each sample
    for one, size in zip(batch, sizes, strict=True):
        assert type(one["instances"].gt_masks) is BitMasks
        assert one["instances"].gt_masks.image_size == size
