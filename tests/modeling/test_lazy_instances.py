"""Masks that are pasted when they are read: Detectron2's tensors, and nothing is pasted before."""

import copy
import pickle

import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from segzoo.modeling.detection import paste_masks
from segzoo.modeling.lazy_instances import LazyInstances
from segzoo.projects.mask_rcnn.gluon_paste import paste_in_pixels
from segzoo.utils import lazy_masks
from segzoo.utils.lazy_masks import LazyMasks, planes, stored_masks
from tests.modeling.box_detections import PASTINGS, at_output, detections

IMAGE, OUTPUT = (80, 120), (91, 137)
COUNT = 9
drawn = []


def recorded(masks, boxes, size):
    """Detectron2's pasting, whose numbers of masks are appended to `drawn`."""
    drawn.append(len(masks))
    return paste_masks(masks, boxes, size)


@pytest.fixture(autouse=True)
def nothing_drawn():
    drawn.clear()


def lazy_and_dense(count=COUNT):
    """The same instances with masks to paste and with pasted ones."""
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(count, 7, 7, generator=generator)
    corners = torch.rand(count, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 5 + 40 * torch.rand(count, 2, generator=generator)], 1)
    fields = {"pred_boxes": Boxes(boxes), "scores": torch.rand(count, generator=generator)}
    lazy = LazyInstances(OUTPUT, **fields, pred_masks=LazyMasks(recorded, OUTPUT, masks, boxes.clone()))
    return lazy, Instances(OUTPUT, **fields, pred_masks=paste_masks(masks, boxes, OUTPUT))


def assert_same(lazy, dense):
    assert isinstance(stored_masks(lazy), LazyMasks)
    assert stored_masks(lazy).shape == tuple(dense.pred_masks.shape)
    assert torch.equal(lazy.scores, dense.scores)
    assert torch.equal(lazy.pred_boxes.tensor, dense.pred_boxes.tensor)
    assert lazy.pred_masks.dtype == torch.bool
    assert torch.equal(lazy.pred_masks, dense.pred_masks)


def test_results_are_those_of_detectron2s_postprocessing():
    found = at_output("detectron2", detections(COUNT, IMAGE), OUTPUT)
    expected = detector_postprocess(detections(COUNT, IMAGE), *OUTPUT)
    assert len(found) == COUNT - 1  # a box has no area
    assert found.image_size == expected.image_size
    assert_same(found, expected)
    assert 0.01 < found.pred_masks.float().mean() < 0.5
    assert torch.equal(found.pred_classes, expected.pred_classes)


@pytest.mark.parametrize("kind", PASTINGS)
def test_masks_stay_as_they_are_when_boxes_change_in_place(kind):
    expected = at_output(kind, detections(COUNT, IMAGE), OUTPUT).pred_masks
    found = at_output(kind, detections(COUNT, IMAGE), OUTPUT)
    found.pred_boxes.scale(0.5, 2.0)
    found.pred_boxes.clip((10, 10))
    assert torch.equal(found.pred_masks, expected)


def test_gluoncvs_masks_do_not_depend_on_the_group_they_are_in(monkeypatch):
    found = at_output("gluoncv", detections(COUNT, IMAGE), OUTPUT)
    masks, boxes = detections(COUNT, IMAGE).pred_masks[:, 0], found.pred_boxes.tensor
    expected = paste_in_pixels(masks, boxes, OUTPUT)
    monkeypatch.setattr(lazy_masks, "PIXELS_AT_ONCE", 2 * OUTPUT[0] * OUTPUT[1])
    assert torch.equal(torch.cat(list(found.stored("pred_masks").groups())), expected)
    assert torch.equal(found.pred_masks, expected)


FLAGS = torch.tensor([True, False, True] * 3)
ITEMS = [3, -1, slice(None), slice(1, 7, 2), slice(4, 4), FLAGS, ~FLAGS & FLAGS, torch.tensor([5, 0, 5])]


@pytest.mark.parametrize("item", ITEMS, ids=str)
def test_indexing_selects_before_pasting(item):
    lazy, dense = lazy_and_dense()
    found, expected = lazy[item], dense[item]
    assert isinstance(found, LazyInstances)
    assert len(found) == len(expected)
    assert not drawn
    assert_same(found, expected)
    assert drawn == [len(expected)]
    assert isinstance(stored_masks(lazy), LazyMasks)


def test_copies_devices_and_concatenation_paste_nothing():
    lazy, dense = lazy_and_dense()
    parts = [lazy[:2].to("cpu"), lazy[2:3], lazy[3:].to(torch.device("cpu"))]
    both = LazyInstances.cat([pickle.loads(pickle.dumps(copy.deepcopy(one))) for one in parts])
    assert lazy.has("pred_masks")
    assert not lazy.has("gt_masks")
    assert len(both) == COUNT
    assert "pred_masks: LazyMasks(shape=(9, 91, 137)" in str(both)
    assert not drawn
    assert_same(both, dense)
    assert LazyInstances.cat([lazy]).image_size == OUTPUT
    assert_same(LazyInstances.cat([lazy]), dense)


def test_instances_with_pasted_and_other_masks_are_concatenated():
    lazy, dense = lazy_and_dense()
    expected = torch.cat([dense.pred_masks] * 2)
    for several in ([lazy[:], dense], [dense, lazy[:]], [lazy[:], lazy[:]]):
        assert torch.equal(Instances.cat(several).pred_masks, expected)
        assert torch.equal(LazyInstances.cat(several).pred_masks, expected)
    read = lazy[:]
    assert torch.equal(read.pred_masks, dense.pred_masks)
    for several in ([lazy[:], read], [read, lazy[:]]):
        assert torch.equal(LazyInstances.cat(several).pred_masks, expected)
    other = lazy[:]
    other.pred_masks = LazyMasks(paste_masks, OUTPUT, *lazy.stored("pred_masks").parts)
    assert torch.equal(LazyInstances.cat([lazy[:], other]).pred_masks, expected)


@pytest.mark.parametrize("read", [lambda one: one.pred_masks, lambda one: one.get("pred_masks")])
def test_masks_that_were_read_are_a_field_like_others(read):
    lazy, dense = lazy_and_dense()
    read(lazy)[0] = True
    assert lazy.pred_masks[0].all()
    assert torch.equal(lazy.get_fields()["pred_masks"][1:], dense.pred_masks[1:])
    assert drawn == [COUNT]
    assert lazy[[0]].pred_masks.all()
    lazy.pred_masks = dense.pred_masks
    assert torch.equal(lazy.pred_masks, dense.pred_masks)
    lazy.remove("pred_masks")
    assert not hasattr(lazy, "pred_masks")
    with pytest.raises(AttributeError, match="pred_masks"):
        lazy.pred_masks  # noqa: B018


def test_get_fields_pastes():
    lazy, dense = lazy_and_dense()
    fields = lazy.get_fields()
    assert fields.keys() == dense.get_fields().keys()
    assert torch.equal(fields["pred_masks"], dense.pred_masks)
    assert fields is lazy.get_fields()
    assert drawn == [COUNT]


def test_detectron2_writes_the_same_json():
    lazy, dense = lazy_and_dense()
    for one in (lazy, dense):
        one.pred_classes = torch.zeros(COUNT, dtype=torch.int64)
    assert instances_to_coco_json(lazy.to("cpu"), 1) == instances_to_coco_json(dense, 1)


@pytest.mark.parametrize("order", [None, [4, 0, 4, 8, -1], []])
def test_masks_are_visited_in_any_order_in_groups(order, monkeypatch):
    monkeypatch.setattr(lazy_masks, "PIXELS_AT_ONCE", 2 * OUTPUT[0] * OUTPUT[1] + 5)
    lazy, dense = lazy_and_dense()
    masks = stored_masks(lazy)
    expected = dense.pred_masks.numpy()[slice(None) if order is None else np.array(order, int)]
    found = [mask.copy() for mask in planes(masks, order)]
    assert np.array_equal(np.array(found).reshape(expected.shape), expected)
    assert drawn == ([2, 2, 2, 2, 1] if order is None else [2, 2, 1] if order else [])
    for plain in (dense.pred_masks, dense.pred_masks.byte(), dense.pred_masks.numpy()):
        found = list(planes(plain, order))
        assert np.array_equal(np.array(found, bool).reshape(expected.shape), expected)
    view = next(planes(stored_masks(dense)))
    assert np.shares_memory(view, dense.pred_masks.numpy())


def test_masks_are_read_like_an_array():
    lazy, dense = lazy_and_dense()
    masks, expected = stored_masks(lazy), dense.pred_masks.numpy()
    assert np.array_equal(np.asarray(masks), expected)
    assert np.array_equal(masks[2], expected[2])
    assert np.array_equal(masks[np.int64(-1)], expected[-1])
    assert np.array_equal(list(masks), expected)
    assert masks.nbytes == COUNT * (7 * 7 + 4) * 4
    # A mask of more pixels than a group is drawn alone.
    lazy, _ = lazy_and_dense(3)
    lazy_masks_of_one = LazyMasks(recorded, (3000, 3000), *stored_masks(lazy).parts)
    drawn.clear()
    assert sum(1 for _ in lazy_masks_of_one.groups()) == 3
