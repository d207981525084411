"""Boxes and Detectron2's Instances are made of the same index maps as every other target."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks

from segzoo.config.load import new_config
from segzoo.data import SegmentationMapper
from segzoo.data.label_reader import IndexMap, Segments
from segzoo.data.targets import GROUPS
from segzoo.data.training_targets import TARGETS_REGISTRY, AugmentedLabels
from segzoo.data.wanted_targets import wanted_targets
from segzoo.utils.errors import InputError

# Segments 1 to 4; 2 is in two parts, 4 a crowd. Classes 0 and 1 are things, 2 is stuff.
INDICES = np.array(
    [
        [0, 1, 1, 0, 2],
        [0, 1, 3, 3, 0],
        [4, 4, 3, 3, 2],
    ],
    dtype=np.uint8,
)
SEGMENTS = Segments(np.array([1, 0, 2, 1]), np.array([False, False, False, True]))
IS_THING = np.array([True, True, False])


def labels_of(task, index_map):
    groups = GROUPS[task](index_map.segments, IS_THING)
    return AugmentedLabels(task, index_map, groups, lambda index_map: index_map.indices)


def targets_of(name, task, index_map):
    return TARGETS_REGISTRY.get(name)(labels_of(task, index_map))


def test_boxes_hold_all_pixels_of_a_target_and_no_more():
    found = targets_of("boxes", "panoptic", IndexMap(INDICES, SEGMENTS))["segment_boxes"]
    # Left, top, right, bottom: one pixel is one wide.
    assert found.dtype == torch.float32
    assert found.tolist() == [[1, 0, 3, 2], [4, 0, 5, 3], [2, 1, 4, 3]]


def test_a_box_holds_the_polygons_of_all_annotations_of_a_target():
    """Annotations of a class are one target of the semantic task; one that is no polygon has its pixels."""
    indices = np.zeros((10, 20), np.uint8)
    indices[1:3, 2:5], indices[4:9, 10:13], indices[0, 15] = 1, 2, 3
    members = np.eye(4, 3, k=-1, dtype=bool)
    index_map = IndexMap(indices, Segments(np.array([0, 0, 1]), np.zeros(3, bool)), members)
    polygons = [
        [np.array([[2.2, 1.3], [4.8, 1.3], [4.8, 2.9]])],
        [np.array([[9.6, 4.1], [12.5, 8.7], [9.6, 8.7]])],
        None,
    ]
    labels = replace(labels_of("semantic", index_map), outlines_of=lambda: polygons)
    first, second = labels.boxes
    np.testing.assert_allclose(first, [2.2, 1.3, 12.5, 8.7], rtol=1e-6)
    assert second.tolist() == [15, 0, 16, 1]
    mixed = replace(labels, outlines_of=lambda: [polygons[0], None, None])
    assert mixed.boxes[0].tolist() == [2, 1, 13, 9]


def test_whole_boxes_are_those_before_the_crop_and_are_cut_at_its_border():
    """A diagonal of 10 x 20 pixels, doubled, mirrored, and cropped, by hand."""
    indices = np.zeros((10, 20), np.uint8)
    for step in range(6):
        indices[2 + step, 4 + 2 * step : 6 + 2 * step] = 1
    indices[9, 0] = 2  # outside of the crop
    source = IndexMap(indices, Segments(np.array([0, 1]), np.array([False, False])))
    transform = T.TransformList(
        [T.ResizeTransform(10, 20, 20, 40), T.HFlipTransform(40), T.CropTransform(0, 0, 30, 10)]
    )
    labels = labels_of("panoptic", source._replace(indices=transform.apply_segmentation(indices)))
    labels = replace(labels, source=source, transform=transform)
    # Columns 4 to 16 and rows 2 to 8 become columns 40 - 32 to 40 - 8 and rows 4 to 16, of which 10 are left.
    found = TARGETS_REGISTRY.get("whole_boxes")(labels)["segment_boxes"]
    assert found.dtype == torch.float32
    assert found.tolist() == [[8, 4, 30, 10]]
    # What is left of the mask are its first three steps.
    assert TARGETS_REGISTRY.get("boxes")(labels)["segment_boxes"].tolist() == [[20, 4, 30, 10]]
    with pytest.raises(ValueError, match="needs the labels before augmentation"):
        targets_of("whole_boxes", "panoptic", source)


@pytest.mark.parametrize("overlap", [False, True])
def test_instances_are_detectron2s_of_the_things(overlap):
    index_map = IndexMap(INDICES, SEGMENTS)
    if overlap:
        # Index 3 stands for pixels that segments 1 and 2 share here, and segment 3 has none.
        members = np.zeros((5, 4), dtype=bool)
        members[1, 0] = members[2, 1] = members[3, 0] = members[3, 1] = members[4, 3] = True
        index_map = index_map._replace(members=members)
    masks = [(INDICES == 1) | (overlap & (INDICES == 3)), (INDICES == 2) | (overlap & (INDICES == 3))]
    found = targets_of("instances", "instance", index_map)["instances"]
    assert found.image_size == (3, 5)
    assert found.gt_classes.tolist() == [1, 0]
    assert np.array_equal(found.gt_masks.tensor.numpy(), masks)
    peer = BitMasks(torch.from_numpy(np.stack(masks))).get_bounding_boxes()
    assert torch.equal(found.gt_boxes.tensor, peer.tensor)


@pytest.mark.parametrize("name", ["boxes", "instances"])
def test_an_image_may_have_no_targets(name):
    found = targets_of(name, "instance", IndexMap(np.zeros((3, 5), np.uint8), SEGMENTS))
    if name == "boxes":
        assert found["segment_boxes"].shape == (0, 4)
    else:
        assert (len(found["instances"]), found["instances"].gt_masks.tensor.shape) == (0, (0, 3, 5))


def test_boxes_follow_the_segments_through_augmentation():
    """The mapper: boxes are those of the flipped and cropped map, in the order of the classes."""

    class Reader:
        ignore_label = 255
        is_thing = IS_THING
        dataset = type("Dataset", (), {"flip_pairs": ()})

        def load_index_map(self, record, semantic):
            return IndexMap(INDICES.repeat(2, 0).repeat(2, 1), SEGMENTS)

        def class_map(self, index_map):
            return index_map.indices

    mapper = SegmentationMapper(
        True,
        task="instance",
        augmentations=[T.CropTransform(2, 0, 8, 6), T.HFlipTransform(8)],
        readers={"toy": Reader()},
        targets=("segments", "boxes"),
    )
    record = {"dataset": "toy", "image": np.zeros((6, 10, 3), np.uint8)}
    mapper._add_targets(record, record["image"])
    assert record["segment_classes"].tolist() == [1, 0]
    for number, box in enumerate(record["segment_boxes"].int().tolist()):
        rows, columns = np.nonzero(record["segment_map"].numpy() == number)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert record["segment_boxes"][1].tolist() == [0, 0, 2, 6]


def test_a_model_gets_the_targets_that_it_or_the_configuration_names():
    cfg = new_config()
    assert cfg.MODEL.META_ARCHITECTURE == "GeneralizedRCNN"
    assert wanted_targets(cfg) == ("segments",)  # a class map has no instances
    cfg.TASK = "instance"
    assert wanted_targets(cfg) == ("segments", "instances")
    cfg.MODEL.META_ARCHITECTURE = "MaskFormer"
    assert wanted_targets(cfg) == ("segment_map",)
    cfg.INPUT.TARGETS = ("segments", "boxes")
    assert wanted_targets(cfg) == ("segments", "boxes")
    with pytest.raises(
        InputError, match=r"INPUT\.TARGETS 'box' is unknown; did you mean boxes\?; known: boxes, "
    ):
        SegmentationMapper(True, task="instance", augmentations=[], targets=("box",))


def test_a_class_derived_from_a_detector_gets_its_targets(monkeypatch):
    from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN

    class PrivateRCNN(GeneralizedRCNN):
        pass

    class PrivateBoxes(GeneralizedRCNN):
        mapper_targets = ("boxes",)

    for model in (PrivateRCNN, PrivateBoxes):
        monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, model.__name__, model)
    cfg = new_config()
    cfg.TASK = "instance"
    cfg.MODEL.META_ARCHITECTURE = "PrivateRCNN"
    assert wanted_targets(cfg) == ("segments", "instances")
    cfg.MODEL.META_ARCHITECTURE = "PrivateBoxes"
    assert wanted_targets(cfg) == ("boxes",)
    cfg.INPUT.TARGETS = ("sem_seg",)
    assert wanted_targets(cfg) == ("sem_seg",)


def test_panoptic_fpn_is_refused_until_a_class_says_what_it_learns_from(monkeypatch):
    from detectron2.modeling import META_ARCH_REGISTRY, PanopticFPN

    class PrivateFPN(PanopticFPN):
        pass

    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "PrivateFPN", PrivateFPN)
    cfg = new_config()
    cfg.TASK = "panoptic"
    for name in ("PanopticFPN", "PrivateFPN"):
        cfg.MODEL.META_ARCHITECTURE = name
        for targets in ((), ("instances", "sem_seg")):
            cfg.INPUT.TARGETS = targets
            with pytest.raises(InputError, match=f"{name}: segzoo does not make the labels of PanopticFPN"):
                wanted_targets(cfg)
    cfg.INPUT.TARGETS = ()
    PrivateFPN.mapper_targets = ("instances", "private_labels")
    assert wanted_targets(cfg) == ("instances", "private_labels")
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"  # what the message advises
    cfg.TASK = "instance"
    assert wanted_targets(cfg) == ("segments", "instances")
