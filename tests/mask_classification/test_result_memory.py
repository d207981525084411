"""Results of a large image with 200 queries take a small part of the masks' memory."""

import pytest
import torch
import torch.nn.functional as F

from segzoo.modeling.lazy_instances import LazyInstances
from segzoo.modeling.mask_classification import postprocess
from segzoo.utils import packed_bits
from segzoo.utils.lazy_masks import LazyMasks, stored_masks
from segzoo.utils.packed_bits import pack_bits, unpack_bits

MEBIBYTE = 1 << 20
SIZES = ((768, 1024), (750, 1000), (750, 1000))  # a quarter of 2000 x 1500 pixels
QUERIES, CLASSES = 200, 8
IS_THING = (True,) * 5 + (False,) * 3


def peak_memory(function):
    """Return the function's result, and the peak of the memory of tensors that it allocates, in bytes."""
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        result = function()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return result, peak


@pytest.fixture(scope="module")
def prediction():
    """Return class and mask logits: confident queries whose masks cover a tenth of the image each."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(QUERIES, CLASSES + 1, generator=generator) * 3
    logits[:, -1] -= 9
    coarse = torch.randn(1, QUERIES, 12, 16, generator=generator) * 6 - 7.5
    masks = F.interpolate(coarse, size=(192, 256), mode="bilinear")[0]
    return logits, masks


def test_results_of_a_large_image_are_formed_in_tens_of_mebibytes(prediction):
    labels, peak = peak_memory(lambda: postprocess.semantic_labels(*prediction, *SIZES))
    assert labels.shape == SIZES[2]
    assert peak < 40 * MEBIBYTE
    arguments = (*prediction, *SIZES, IS_THING, 0.1, 0.1)
    (_, segments), peak = peak_memory(lambda: postprocess.panoptic(*arguments))
    assert len(segments) > 5
    assert peak < 40 * MEBIBYTE
    found, peak = peak_memory(lambda: postprocess.instances(*prediction, *SIZES, 100))
    assert len(found) == 100
    # As bits of 9 MiB twice: of all queries, and in the order of the scores. 72 MiB at full size.
    assert peak < 40 * MEBIBYTE
    assert stored_masks(found).nbytes < 9 * MEBIBYTE


def test_instances_of_a_model_keep_their_masks_as_bits_until_they_are_read(prediction):
    logits, masks = prediction
    found = postprocess.instances(logits[:20], masks[:20], (192, 256), (191, 251), (191, 251), 30)
    assert isinstance(found, LazyInstances)
    assert isinstance(stored_masks(found), LazyMasks)
    drawn = [mask for group in stored_masks(found).groups() for mask in group]
    assert len(drawn) == 30
    # A query of two classes is drawn twice.
    planes = masks[:20, :191, :251] > 0
    for mask in drawn:
        assert (planes == mask).flatten(1).all(1).any()
    assert torch.equal(torch.stack(drawn), found.pred_masks)


@pytest.mark.parametrize("width", [1, 7, 8, 29])
def test_packed_bits_are_those_of_numpy_on_every_device(width, monkeypatch):
    masks = torch.rand(3, 5, width, generator=torch.Generator().manual_seed(1)) < 0.4
    packed = pack_bits(masks)
    assert packed.shape == (3, 5, -(-width // 8))
    assert torch.equal(unpack_bits(packed, (5, width)), masks)
    # The formulation of other devices.
    monkeypatch.setattr(packed_bits, "_HOST", "none")
    assert torch.equal(pack_bits(masks), packed)
    assert torch.equal(unpack_bits(packed, (5, width)), masks)
