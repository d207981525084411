"""Polygons, boxes and masks of instances are those that Detectron2's mapper makes of the same annotation."""

import copy

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import (
    annotations_to_instances,
    filter_empty_instances,
    transform_instance_annotations,
)
from detectron2.structures import BitMasks, BoxMode, PolygonMasks
from pycocotools import mask as mask_tools

from segzoo.data import SegmentationMapper
from segzoo.data.augmentation.policies import CategoryCappedCrop, FixedCrop, PadTo, ResizeShortestEdge
from segzoo.data.augmentation.transforms import OpenCVResizeTransform
from segzoo.data.coco_instances import split_overlaps
from segzoo.data.label_reader import IndexMap, LabelReader, Segments
from segzoo.data.outlines import outline_boxes, transform_outlines
from segzoo.data.polygons import polygon_area

HEIGHT, WIDTH = 60, 83
BLOB = [10.5, 8.25, 40.0, 5.5, 52.75, 30.0, 30.5, 44.0, 12.0, 33.5]
# Overlaps the first; in two parts, one of them smaller than a pixel.
PARTS = [[25.0, 20.0, 70.5, 22.0, 61.0, 55.75, 28.0, 50.0], [75.2, 3.1, 75.6, 3.1, 75.6, 3.5]]
U = [4.0, 10.0, 8.0, 10.0, 8.0, 40.0, 30.0, 40.0, 30.0, 10.0, 34.0, 10.0, 34.0, 50.0, 4.0, 50.0]


def annotation(polygons, category, crowd=0):
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    box = [*points.min(0), *points.max(0)]
    return {
        "segmentation": copy.deepcopy(polygons),
        "category_id": category,
        "iscrowd": crowd,
        "bbox": box,
        "bbox_mode": BoxMode.XYXY_ABS,
    }


def as_rle(one):
    code = mask_tools.merge(mask_tools.frPyObjects(one["segmentation"], HEIGHT, WIDTH))
    return {**one, "segmentation": code}


def annotations():
    return [
        annotation([BLOB], 2),
        as_rle(annotation([[0.0, 0, 60, 0, 60, 40, 0, 40]], 1, crowd=1)),
        annotation(PARTS, 0),
        annotation([U], 1),
    ]


class Reader:
    """The part of LabelReader that the mapper uses."""

    ignore_label = 255
    is_thing = np.array([True, True, True])
    dataset = type("Dataset", (), {"flip_pairs": ()})

    def load_index_map(self, record, semantic):
        listed = record["annotations"]
        codes = [one if isinstance(one["segmentation"], dict) else as_rle(one) for one in listed]
        overlaps = split_overlaps([one["segmentation"] for one in codes], (HEIGHT, WIDTH), "image")
        classes = np.array([one["category_id"] for one in listed])
        crowd = np.array([bool(one["iscrowd"]) for one in listed])
        return IndexMap(overlaps.indices, Segments(classes, crowd), overlaps.members)

    def polygons_alone(self, record, size):
        return LabelReader.polygons_alone(self, record, size) if self.lazy else None

    def _rles(self, record, annotations):
        return [as_rle(one) for one in annotations]

    lazy = True

    def class_map(self, index_map):
        return index_map.indices


def mapped(listed, augmentations, mask_format, targets=("instances",)):
    mapper = SegmentationMapper(
        True,
        task="instance",
        augmentations=augmentations,
        readers={"toy": Reader()},
        targets=targets,
        mask_format=mask_format,
    )
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    record = {"dataset": "toy", "annotations": listed}
    mapper._add_targets(record, image)
    return record


def detectron2s(listed, augmentations, mask_format):
    image = T.AugInput(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    transforms = T.AugmentationList(augmentations)(image)
    size = image.image.shape[:2]
    kept = [
        transform_instance_annotations(copy.deepcopy(one), transforms, size)
        for one in listed
        if not one["iscrowd"]
    ]
    return filter_empty_instances(annotations_to_instances(kept, size, mask_format))


def test_resized_and_flipped_polygons_are_detectron2s():
    steps = [T.ResizeShortestEdge([97, 97], 200), T.RandomFlip(1.0)]
    found = mapped(annotations(), steps, "polygon")["instances"]
    expected = detectron2s(annotations(), steps, "polygon")
    assert isinstance(found.gt_masks, PolygonMasks)
    assert found.gt_classes.tolist() == expected.gt_classes.tolist() == [2, 0, 1]
    torch.testing.assert_close(found.gt_boxes.tensor, expected.gt_boxes.tensor)
    for one, other in zip(found.gt_masks.polygons, expected.gt_masks.polygons, strict=True):
        assert len(one) == len(other)
        assert all(np.allclose(*pair, atol=1e-9, rtol=0) for pair in zip(one, other, strict=True))
    # What the mask head learns from.
    boxes = expected.gt_boxes.tensor + torch.tensor([-3.0, 2, 4, -1])
    crops = [one.gt_masks.crop_and_resize(boxes, 28) for one in (found, expected)]
    assert torch.equal(*crops)
    assert 0.1 < crops[0].float().mean() < 0.9


def test_bitmasks_are_drawn_after_the_resize_as_in_detectron2():
    steps = [T.ResizeShortestEdge([97, 97], 200), T.RandomFlip(1.0)]
    found = mapped(annotations(), steps, "bitmask")["instances"]
    expected = detectron2s(annotations(), steps, "bitmask")
    assert torch.equal(found.gt_masks.tensor, expected.gt_masks.tensor.bool())
    torch.testing.assert_close(found.gt_boxes.tensor, expected.gt_boxes.tensor)
    assert found.gt_classes.tolist() == expected.gt_classes.tolist()


def test_masks_that_are_no_polygons_are_resized_by_nearest_pixel_as_in_detectron2():
    listed = [one if one["iscrowd"] else as_rle(one) for one in annotations()]
    steps = [T.ResizeShortestEdge([97, 97], 200), T.RandomFlip(1.0)]
    expected = detectron2s(listed, steps, "bitmask")
    for mask_format in ("polygon", "bitmask"):
        found = mapped(listed, steps, mask_format)["instances"]
        assert torch.equal(found.gt_masks.tensor, expected.gt_masks.tensor.bool())
        # Without polygons the box is the mask's.
        assert torch.equal(found.gt_boxes.tensor, found.gt_masks.get_bounding_boxes().tensor)


def test_boxes_of_other_models_are_the_polygons_too():
    steps = [T.ResizeShortestEdge([97, 97], 200), T.RandomFlip(1.0)]
    found = mapped(annotations(), steps, "bitmask", ("segments", "boxes"))
    expected = detectron2s(annotations(), steps, "polygon")
    torch.testing.assert_close(found["segment_boxes"], expected.gt_boxes.tensor)
    mixed = [as_rle(annotations()[0]), *annotations()[1:]]
    found = mapped(mixed, steps, "bitmask", ("segments", "boxes"))
    measured = BitMasks(found["segment_masks"]).get_bounding_boxes().tensor
    assert torch.equal(found["segment_boxes"][0], measured[0])
    torch.testing.assert_close(found["segment_boxes"][1:], expected.gt_boxes.tensor[1:])


LINE = [20.0, 10.0, 20.0, 30.0, 20.0, 20.0]  # no width
SPECK = [30.2, 10.2, 30.4, 10.2, 30.4, 10.4]  # holds no center of a pixel


@pytest.mark.parametrize(("mask_format", "kept"), [("polygon", [2, 0]), ("bitmask", [2])])
def test_what_has_no_area_is_no_target_as_in_detectron2(mask_format, kept):
    listed = [annotation([LINE], 1), annotation([BLOB], 2), annotation([SPECK], 0)]
    found = mapped(listed, [], mask_format)["instances"]
    expected = detectron2s(listed, [], mask_format)
    assert found.gt_classes.tolist() == expected.gt_classes.tolist() == kept
    torch.testing.assert_close(found.gt_boxes.tensor, expected.gt_boxes.tensor)


def test_boxes_end_at_the_image_as_in_detectron2():
    """Polygons of annotations may leave the image, those outside of it are no targets."""
    over = [[-5.0, -3, 30, -3, 30, 70, -5, 70], [60.0, 10, 90, 10, 90, 20, 60, 20]]
    outside = [90.0, 10, 99, 10, 99, 20]
    listed = [annotation([over[0]], 1), annotation([outside], 0), annotation([over[1]], 2)]
    found = mapped(listed, [], "polygon")["instances"]
    expected = detectron2s(listed, [], "polygon")
    assert found.gt_classes.tolist() == expected.gt_classes.tolist() == [1, 2]
    assert found.gt_boxes.tensor.tolist() == [[0, 0, 30, HEIGHT], [60, 10, WIDTH, 20]]
    assert torch.equal(expected.gt_boxes.tensor, found.gt_boxes.tensor)


def test_a_crop_keeps_the_part_inside_and_its_extremes():
    """A U without its lower bar is two bars."""
    crop = T.CropTransform(6, 5, 60, 30)
    (found,) = transform_outlines([[np.reshape(U, (-1, 2))]], crop)
    (polygon,) = found
    assert outline_boxes([found], (30, 60)).tolist() == [[0, 5, 28, 30]]
    drawn = mask_tools.decode(mask_tools.merge(mask_tools.frPyObjects([polygon.reshape(-1)], 30, 60)))
    expected = np.zeros((30, 60), np.uint8)
    expected[5:, 0:2] = expected[5:, 24:28] = 1
    assert np.array_equal(drawn, expected)
    outside = transform_outlines([[np.reshape(U, (-1, 2))]], T.CropTransform(9, 0, 20, 30))
    assert outside == [[]]


@pytest.mark.parametrize("seed", range(4))
def test_crops_of_any_polygon_are_the_crop_of_its_mask(seed):
    """Drawn eight times as large, so that rounding at borders counts little."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
    radii = rng.uniform(5, 40, 12)
    star = np.stack([48 + radii * np.cos(angles), 48 + radii * np.sin(angles)], axis=1)
    left, top, width, height = *rng.integers(10, 40, 2).tolist(), 40, 35
    (found,) = transform_outlines([[star]], T.CropTransform(left, top, width, height))
    area = sum(polygon_area(polygon.reshape(-1)) for polygon in found)
    whole = mask_tools.decode(mask_tools.merge(mask_tools.frPyObjects([(8 * star).reshape(-1)], 800, 800)))
    inside = whole[8 * top : 8 * (top + height), 8 * left : 8 * (left + width)]
    assert area == pytest.approx(inside.sum() / 64, rel=0.02)
    rows, columns = np.nonzero(inside)
    (box,) = outline_boxes([found], (height, width))
    edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 8
    assert np.allclose(box, edges, atol=0.2)


def test_cropped_polygons_are_those_of_shapely():
    pytest.importorskip("shapely", reason="Detectron2's crop of polygons needs shapely")
    crop = T.CropTransform(20, 12, 40, 30)
    for polygon in (BLOB, PARTS[0], U):
        points = np.reshape(polygon, (-1, 2))
        (found,) = transform_outlines([[points]], crop)
        expected = crop.apply_polygons([points])
        drawn = [
            mask_tools.decode(mask_tools.merge(mask_tools.frPyObjects([p.reshape(-1) for p in one], 30, 40)))
            for one in (found, expected)
        ]
        assert np.array_equal(*drawn)
        assert np.allclose(outline_boxes([found], (30, 40)), outline_boxes([expected], (30, 40)))


def test_what_a_crop_leaves_out_is_no_target():
    steps = [T.CropTransform(0, 0, 9, 60)]
    found = mapped(annotations(), steps, "polygon")["instances"]
    assert found.gt_classes.tolist() == [1]
    assert found.gt_boxes.tensor.tolist() == [[4, 10, 9, 50]]
    nothing = mapped(annotations(), [T.CropTransform(72, 30, 9, 20)], "polygon")["instances"]
    assert (len(nothing), len(nothing.gt_boxes), len(nothing.gt_masks)) == (0, 0, 0)


def test_padding_and_opencvs_resize_move_polygons_as_the_image():
    points = np.reshape(BLOB, (-1, 2))
    resize = OpenCVResizeTransform(120, 166, (HEIGHT, WIDTH))
    pad = PadTo((80, 100), centered=True).get_transform(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (found,) = transform_outlines([[points]], T.TransformList([pad, T.CropTransform(8, 10, WIDTH, HEIGHT)]))
    assert np.allclose(found[0], points)
    (found,) = transform_outlines([[points]], resize)
    assert np.allclose(found[0], 2 * points)


def test_large_scale_jitter_keeps_polygons_on_their_image():
    steps = [ResizeShortestEdge([120, 120], 400), FixedCrop((64, 64)), PadTo((64, 64))]
    np.random.seed(3)
    found = mapped([annotation([BLOB], 2)], steps, "bitmask", ("segments", "instances"))
    (drawn,), (resized,) = found["instances"].gt_masks.tensor, found["segment_masks"]
    union = (drawn | resized).sum()
    assert union > 0
    assert (drawn & resized).sum() > 0.95 * union


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_pixels_of_polygons_are_read_only_where_they_are_needed(mask_format, monkeypatch):
    steps = [T.ResizeShortestEdge([97, 97], 200), T.RandomFlip(1.0)]
    expected = detectron2s(annotations(), steps, mask_format)
    monkeypatch.setattr(Reader, "lazy", False)
    read = mapped(annotations(), steps, mask_format)["instances"]
    monkeypatch.setattr(Reader, "lazy", True)
    monkeypatch.setattr(Reader, "load_index_map", None)
    found = mapped(annotations(), steps, mask_format)["instances"]
    for one in (read, found):
        assert torch.equal(one.gt_classes, expected.gt_classes)
        torch.testing.assert_close(one.gt_boxes.tensor, expected.gt_boxes.tensor)
        assert type(one.gt_masks) is type(expected.gt_masks)
    monkeypatch.undo()
    calls = []
    monkeypatch.setattr(Reader, "load_index_map", lambda *_, **__: calls.append(1) or index_map_of_one())
    capped = CategoryCappedCrop((30, 30), max_share=0.9)
    mapped([annotation([BLOB], 2)], [T.RandomFlip(1.0), capped], mask_format)
    assert calls == [1]  # the crop asks for the classes of pixels


def index_map_of_one():
    indices = np.zeros((HEIGHT, WIDTH), np.uint8)
    indices[10:40, 10:40] = 1
    return IndexMap(indices, Segments(np.array([2]), np.array([False])), np.eye(2, dtype=bool)[:, 1:])
