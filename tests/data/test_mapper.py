"""The mapper returns the documented keys for every task."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from segzoo.config.defaults import default_config
from segzoo.data import SegmentationMapper, label_reader
from segzoo.modeling.mask_classification.meta_arch import MaskFormer
from segzoo.modeling.per_pixel import PerPixelSegmentor
from segzoo.utils.errors import InputError
from tests.data.data_trees import (
    STREET,
    STREET_CATEGORIES,
    STREET_IDS,
    load,
    random_image,
    save,
    write_panoptic,
    write_roads,
    write_street,
    write_yaml,
)

LABELS = np.array([[0, 1, 2, 4], [3, 4, 255, 2]], dtype=np.uint8)


def mapper_of(name, task, augmentations=(), **options):
    return SegmentationMapper(
        True, task=task, augmentations=augmentations, readers={name: label_reader(name)}, **options
    )


def test_semantic_training_yields_image_labels_and_one_segment_per_class(tmp_path):
    (record,), _ = load(write_roads(tmp_path, LABELS))
    before = dict(record)
    sample = mapper_of("roads_train", "semantic")(record)
    assert record == before
    assert sample["image"].dtype == torch.uint8
    assert np.array_equal(sample["image"].permute(1, 2, 0).numpy(), random_image(2, 4))
    assert sample["sem_seg"].dtype == torch.int64
    assert sample["sem_seg"].tolist() == LABELS.tolist()
    assert sample["segment_map"].dtype == torch.int16
    assert sample["segment_map"].tolist() == [[0, 1, 2, 4], [3, 4, -1, 2]]
    assert sample["segment_classes"].tolist() == [0, 1, 2, 3, 4]
    assert (sample["height"], sample["width"], sample["image_id"]) == (2, 4, "a")


@pytest.mark.parametrize(
    ("task", "count"), [("panoptic", 5), ("entity", 5), ("instance", 3), ("semantic", 4)]
)
def test_panoptic_ground_truth_serves_every_task(tmp_path, task, count):
    (record,), metadata = load(write_street(tmp_path))
    sample = mapper_of("street_train", task)(record)
    assert sample["segment_map"].shape == STREET_IDS.shape
    assert len(sample["segment_classes"]) == count
    for index, category in enumerate(sample["segment_classes"].tolist()):
        covered = (sample["segment_map"] == index).numpy()
        assert covered.any()
        if task in ("panoptic", "semantic"):
            assert (metadata.load_sem_seg(record)[covered] == category).all()
        if task != "semantic":
            assert len(np.unique(STREET_IDS[covered])) == 1
    assert ("sem_seg" in sample) == (task == "semantic")
    if task == "semantic":
        assert np.array_equal(sample["sem_seg"].numpy(), metadata.load_sem_seg(record))
    else:
        crowd_and_void = np.isin(STREET_IDS, [0, 300])
        assert (sample["segment_map"].numpy()[crowd_and_void] == -1).all()


def test_classes_with_a_left_and_a_right_swap_under_every_odd_number_of_flips(tmp_path):
    (record,), _ = load(write_roads(tmp_path, LABELS, flip_pairs=[["car", "person"], ["road", "sky"]]))
    flips = [T.RandomFlip(1.0)]
    once = mapper_of("roads_train", "semantic", flips)(record)
    swapped = np.array([2, 1, 0, 4, 3] + [255] * 251)[LABELS[:, ::-1]]
    assert np.array_equal(once["sem_seg"].numpy(), swapped)
    assert np.array_equal(once["image"].permute(1, 2, 0).numpy(), random_image(2, 4)[:, ::-1])
    classes = np.append(once["segment_classes"], 255)[once["segment_map"].numpy()]
    assert np.array_equal(classes, swapped)
    twice = mapper_of("roads_train", "semantic", flips * 2)(record)
    plain = mapper_of("roads_train", "semantic")(record)
    assert all(torch.equal(twice[key], plain[key]) for key in ("image", "sem_seg", "segment_map"))
    vertical = mapper_of("roads_train", "semantic", [T.RandomFlip(1.0, horizontal=False, vertical=True)])
    assert vertical(record)["sem_seg"].tolist() == LABELS[::-1].tolist()


def test_a_flip_swaps_the_classes_of_instances_too(tmp_path):
    (record,), _ = load(write_street(tmp_path, flip_pairs=[["car", "person"]]))
    plain = mapper_of("street_train", "panoptic")(record)
    flipped = mapper_of("street_train", "panoptic", [T.RandomFlip(1.0)])(record)
    assert torch.equal(flipped["segment_map"].flip(1), plain["segment_map"])
    assert flipped["segment_classes"].tolist() == [
        {1: 3, 3: 1}.get(one, one) for one in plain["segment_classes"].tolist()
    ]


def test_a_segment_cropped_away_disappears(tmp_path):
    (record,), _ = load(write_street(tmp_path))
    sample = mapper_of("street_train", "panoptic", [T.CropTransform(0, 1, 3, 2)])(record)
    # 500 500 70000 / 500 500 66051
    assert sample["segment_map"].tolist() == [[1, 1, 0], [1, 1, 2]]
    assert sample["segment_classes"].tolist() == [2, 1, 3]


def test_more_than_255_segments_are_augmented_like_fewer(tmp_path):
    ids = np.arange(1, 901).reshape(30, 30)
    segments = [{"id": one, "category_id": 3} for one in range(1, 901)]
    write_panoptic(tmp_path, {"a": ids}, {"a": segments}, STREET_CATEGORIES)
    (record,), _ = load(write_yaml(tmp_path, STREET, "street.yaml"))
    resize = T.ResizeTransform(30, 30, 47, 41)
    sample = mapper_of("street_train", "entity", [resize])(record)
    expected = Image.fromarray(ids.astype(np.int32)).resize((41, 47), Image.Resampling.NEAREST)
    assert np.array_equal(sample["segment_map"].numpy() + 1, np.array(expected))
    assert len(sample["segment_classes"]) == 900


def test_more_than_255_classes_have_their_own_ignore_label(tmp_path):
    stored = np.array([[0, 255, 256], [846, 65535, 3]], dtype=np.uint16)
    names = [f"class {index}" for index in range(847)]
    (record,), metadata = load(write_roads(tmp_path, stored, classes=names))
    assert metadata.ignore_label == 65535
    sample = mapper_of("roads_train", "semantic", [T.RandomFlip(1.0)])(record)
    assert sample["sem_seg"].tolist() == stored[:, ::-1].tolist()
    assert sample["segment_classes"].tolist() == [0, 3, 255, 256, 846]


def test_evaluation_keeps_what_the_evaluators_read_and_the_original_size(tmp_path):
    (record,), metadata = load(write_street(tmp_path))
    resize = T.ResizeShortestEdge([8, 8], 100)
    mapper = SegmentationMapper(False, task="panoptic", augmentations=[resize], image_format="BGR")
    sample = mapper(record)
    assert sample["image"].shape == (3, 8, 12)
    assert (sample["height"], sample["width"]) == (4, 6)
    assert np.array_equal(metadata.load_panoptic(sample)[0], STREET_IDS)
    assert metadata.load_sem_seg(sample).shape == (4, 6)


def test_the_channel_order_is_the_configured_one(tmp_path):
    (record,), _ = load(write_roads(tmp_path, LABELS))
    rgb = mapper_of("roads_train", "semantic")(record)["image"]
    bgr = mapper_of("roads_train", "semantic", image_format="BGR")(record)["image"]
    assert torch.equal(rgb.flip(0), bgr)


def test_wrong_sizes_name_the_file(tmp_path):
    (record,), _ = load(write_street(tmp_path))
    save(tmp_path / "images/a.jpg", random_image(5, 6))
    with pytest.raises(InputError, match=r"images/a.jpg: is 6x5, but its annotation says 6x4"):
        mapper_of("street_train", "panoptic")(record)


def test_an_unknown_task_is_explained():
    with pytest.raises(InputError, match=r"TASK 'semantics' is unknown; did you mean semantic\?"):
        SegmentationMapper(True, task="semantics", augmentations=[])


def test_the_configuration_makes_the_mapper(tmp_path):
    (record,), _ = load(write_roads(tmp_path, LABELS))
    cfg = default_config()
    cfg.DATASETS.TRAIN = ("roads_train",)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP_SIZE = (20,), (16, 24)
    sample = SegmentationMapper(cfg, True)(record)
    assert sample["image"].shape == (3, 16, 24)
    cfg.INPUT.MIN_SIZE_TEST = 6
    assert SegmentationMapper(cfg, False)(record)["image"].shape == (3, 6, 12)


def test_a_dataset_that_is_not_from_a_yaml_is_explained():
    cfg = default_config()
    cfg.DATASETS.TRAIN = ("camvid_trian",)
    with pytest.raises(
        InputError, match=r"'camvid_trian' is not registered from a dataset YAML; did you mean"
    ):
        SegmentationMapper(cfg, True)


def test_mask_classification_gets_no_class_map(tmp_path):
    (record,), _ = load(write_roads(tmp_path, LABELS))
    sample = mapper_of("roads_train", "semantic", targets=MaskFormer.mapper_targets)(record)
    tensors = {name for name, value in sample.items() if isinstance(value, torch.Tensor)}
    assert tensors == {"image", "segment_map", "segment_classes"}


@pytest.mark.parametrize(("count", "void", "dtype"), [(5, 255, torch.uint8), (300, 65535, torch.int32)])
def test_a_per_pixel_model_gets_its_image_and_labels_in_few_bytes_and_nothing_else(
    tmp_path, count, void, dtype
):
    labels = LABELS.astype(np.uint16)
    labels[labels == 255] = void
    classes = [f"class {index}" for index in range(count)]
    (record,), _ = load(write_roads(tmp_path, labels if void > 255 else LABELS, classes=classes))
    sample = mapper_of("roads_train", "semantic", targets=PerPixelSegmentor.mapper_targets)(record)
    tensors = {name: value.dtype for name, value in sample.items() if isinstance(value, torch.Tensor)}
    assert tensors == {"image": torch.uint8, "sem_seg": dtype, "segment_classes": torch.int64}
    assert sample["sem_seg"].tolist() == labels.tolist()
    assert sample["segment_classes"].tolist() == [0, 1, 2, 3, 4]
