"""Boxes and centers of entities against loops over their pixels."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from PIL import Image

from segzoo.cli.prepare.shapes import make_shapes
from segzoo.data import SegmentationMapper
from segzoo.data.label_reader import IndexMap, Segments
from segzoo.data.segment_boxes import GroupGeometry, rounded_boxes
from segzoo.data.targets import Groups, entity_groups, panoptic_groups
from segzoo.data.training_targets import AugmentedLabels, add_entities, add_entities_rounded
from segzoo.model_zoo import load_config
from segzoo.modeling.mask_classification.criterion import targets_from_inputs
from segzoo.utils.errors import InputError


def segments(*classes, crowd=()):
    flags = np.array([index in crowd for index in range(len(classes))])
    return Segments(np.array(classes, np.int64), flags)


def by_loops(masks):
    boxes, centers = [], []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        boxes.append([columns.min(), rows.min(), columns.max(), rows.max()])
        centers.append([columns.mean(), rows.mean()])
    return boxes, centers


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_entities_have_the_extremes_and_the_mean_of_their_pixels(dtype):
    """Segment 2 is a crowd and segment 5 has no pixel; both are left out."""
    indices = np.random.default_rng(0).integers(0, 5, (30, 40)).astype(dtype)
    index_map = IndexMap(indices, segments(3, 3, 1, 0, 2, crowd=(1,)))
    groups = entity_groups(index_map.segments, np.array([True] * 4))
    labels = AugmentedLabels("entity", index_map, groups, lambda index_map: index_map.indices)
    found = add_entities(labels)
    boxes, centers = by_loops([indices == index for index in (1, 3, 4)])
    assert found["segment_entity_boxes"].tolist() == boxes
    np.testing.assert_allclose(found["segment_entity_centers"], centers, rtol=1e-6)
    # In the order of the masks that the target "segments" has.
    assert labels.masks.shape[0] == 3
    assert [mask.sum() for mask in labels.masks] == [(indices == index).sum() for index in (1, 3, 4)]


def test_segments_that_overlap_and_segments_of_one_group_are_joined():
    indices = np.array([[0, 1, 1, 2, 3], [0, 1, 1, 2, 3]], np.uint8)
    # Pixels with index 2 are in both of the first segments.
    members = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]], bool)
    overlapping = IndexMap(indices, segments(0, 0, 0), members)
    geometry = GroupGeometry(overlapping, entity_groups(overlapping.segments, np.array([True])))
    assert geometry.extremes.tolist() == [[1, 0, 3, 1], [3, 0, 3, 1], [4, 0, 4, 1]]
    np.testing.assert_allclose(geometry.centers(), [[2, 0.5], [3, 0.5], [4, 0.5]])
    stuff = IndexMap(indices, segments(0, 1, 0))
    geometry = GroupGeometry(stuff, panoptic_groups(stuff.segments, np.array([False, True])))
    assert geometry.extremes.tolist() == [[1, 0, 4, 1], [3, 0, 3, 1]]
    np.testing.assert_allclose(geometry.centers()[0], [(1 + 1 + 2 + 2 + 4 + 4) / 6, 0.5])


def test_rounded_boxes_are_cut_by_a_resize_and_mirrored_at_the_edge_by_a_flip():
    """A resize of a 10 x 20 image by 1.7, then a flip, by hand: int(x * 1.7), and 34 - x."""
    extremes = np.array([[3, 1, 12, 8], [0, 0, 19, 9]])
    resize = T.ResizeTransform(10, 20, 17, 34)
    assert rounded_boxes(extremes, T.TransformList([resize]), (17, 34)).tolist() == [
        [5, 1, 20, 13],
        [0, 0, 32, 15],
    ]
    both = T.TransformList([resize, T.HFlipTransform(34)])
    assert rounded_boxes(extremes, both, (17, 34)).tolist() == [[14, 1, 29, 13], [2, 0, 34, 15]]


def test_rounded_boxes_come_from_the_image_before_augmentation():
    indices = np.zeros((10, 20), np.uint8)
    indices[2:9, 3:14] = 2
    indices[0, 0] = 1  # lost in the smaller image
    source = IndexMap(indices, segments(0, 1))
    resize = T.TransformList([T.ResizeTransform(10, 20, 5, 9)])
    augmented = source._replace(indices=np.where(np.indices((5, 9))[1] > 2, 2, 0).astype(np.uint8))
    labels = AugmentedLabels(
        "entity",
        augmented,
        Groups(np.array([0, 1]), np.zeros(2, np.int64)),
        lambda index_map: index_map.indices,
        source=source,
        transform=resize,
    )
    found = add_entities_rounded(labels)
    # int(3 * 9 / 20), int(2 / 2), int(13 * 9 / 20), int(8 / 2)
    assert found["segment_entity_boxes"].tolist() == [[1, 1, 5, 4]]
    assert found["segment_entity_centers"].tolist() == [[5.5, 2]]
    with pytest.raises(ValueError, match="needs the labels before augmentation"):
        add_entities_rounded(AugmentedLabels("entity", augmented, labels.groups, labels.class_map_of))


def test_the_mapper_gives_the_boxes_of_the_published_training(tmp_path, monkeypatch):
    """Images of 64 x 64, resized to 90 x 90 and flipped; crowds have no target."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    make_shapes(tmp_path / "shapes", train=3, val=1, size=64, workers=0)
    targets = ["INPUT.TARGETS", "('segments', 'entities_rounded')", "INPUT.FLIP_PROB", "1.0"]
    sizes = ["INPUT.MIN_SIZE_TRAIN", "[90]", "INPUT.MAX_SIZE_TRAIN", "90"]
    mapper = SegmentationMapper(load_config("entity/shapes/entityseg_r18_quarter", [*targets, *sizes]), True)
    for record in DatasetCatalog.get("shapes_train"):
        colors = np.asarray(Image.open(record["pan_seg_file_name"])).astype(int)
        ids = colors @ [1, 256, 65536]
        inputs = mapper(record)
        segments = [one["id"] for one in record["segments_info"] if not one["iscrowd"]]
        boxes, _ = by_loops([ids == number for number in segments])
        whole = [[int(side * 90 / 64) for side in box] for box in boxes]
        expected = [[90 - x1, y0, 90 - x0, y1] for x0, y0, x1, y1 in whole]
        assert len(inputs["segment_classes"]) == len(expected)
        assert inputs["segment_entity_boxes"].tolist() == expected
        masks = [(inputs["segment_map"] == index).numpy() for index in range(len(expected))]
        np.testing.assert_allclose(inputs["segment_entity_centers"], by_loops(masks)[1], rtol=1e-5)


def test_a_missing_entry_is_named_with_the_target_that_returns_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    make_shapes(tmp_path / "shapes", train=1, val=1, size=64, workers=0)
    record = DatasetCatalog.get("shapes_train")[0]

    def extras(targets):
        cfg = load_config("entity/shapes/entityseg_r18_quarter", ["INPUT.TARGETS", targets])
        inputs = SegmentationMapper(cfg, True)(record)
        size = tuple(inputs["image"].shape[-2:])
        return targets_from_inputs([inputs], size, "cpu")[0].extras

    for name in ("entity_boxes", "entity_centers", "boxes"):
        with pytest.raises(
            InputError, match=rf"no segment_{name}, .* add its step to INPUT.TARGETS"
        ) as error:
            extras("('segments',)")[name]
        assert len(extras(str(error.value).rpartition("INPUT.TARGETS: ")[2].strip('"'))[name])
