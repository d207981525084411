"""The built-in datasets: their metadata, their layouts, and every value of their encodings."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES, COCO_CATEGORIES
from panopticapi.utils import rgb2id
from PIL import Image

from segzoo.data import read_dataset_file, register_builtin
from segzoo.data.dataset_file import CATALOG
from segzoo.utils.errors import InputError
from tests.data.data_trees import load, random_image, save, write_panoptic, write_yaml

# Colors of CamVid by their names, and the class of each (Brostow et al.; grouped as SegNet's 11 classes).
CAMVID_COLORS = {
    "sky": [(128, 128, 128)],
    "building": [(128, 0, 0), (0, 128, 64), (64, 192, 0), (64, 0, 64), (192, 0, 128)],
    "pole": [(192, 192, 128), (0, 0, 64)],
    "road": [(128, 64, 128), (128, 0, 192), (192, 0, 64)],
    "pavement": [(0, 0, 192), (64, 192, 128), (128, 128, 192)],
    "tree": [(128, 128, 0), (192, 192, 0)],
    "sign symbol": [(192, 128, 128), (128, 128, 64), (0, 64, 64)],
    "fence": [(64, 64, 128)],
    "car": [(64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)],
    "pedestrian": [(64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)],
    "bicyclist": [(0, 128, 192), (192, 0, 192)],
}


@pytest.mark.parametrize("name", sorted(file.stem for file in CATALOG.glob("*.yaml")))
def test_every_built_in_dataset_agrees_with_its_metadata(name):
    dataset = read_dataset_file(name)
    assert dataset.about
    assert len({entry.name for entry in dataset.classes}) == len(dataset.classes)
    for split in dataset.splits:
        metadata = MetadataCatalog.get(split)
        assert metadata.classes == [entry.name for entry in dataset.classes]
        assert len(metadata.colors) == len(metadata.isthing) == len(metadata.classes)
        assert metadata.ignore_label == (255 if len(dataset.classes) <= 255 else 65535)
        assert split in DatasetCatalog
        without_labels = split in dataset.without_labels
        assert metadata.evaluator_type == ("no_ground_truth" if without_labels else dataset.evaluator)
        assert hasattr(metadata, "load_panoptic") == (dataset.evaluator == "panoptic")


def test_registering_again_changes_nothing():
    before = MetadataCatalog.get("camvid_train")
    register_builtin()
    assert MetadataCatalog.get("camvid_train") is before


def test_coco_has_detectron2s_categories():
    metadata = MetadataCatalog.get("coco_2017_val_panoptic")
    assert metadata.classes == [one["name"] for one in COCO_CATEGORIES]
    assert metadata.contiguous_id_to_dataset_id == [one["id"] for one in COCO_CATEGORIES]
    assert metadata.isthing == [bool(one["isthing"]) for one in COCO_CATEGORIES]
    assert metadata.colors == [tuple(one["color"]) for one in COCO_CATEGORIES]
    assert len(metadata.thing_classes) == 80
    assert metadata.thing_dataset_id_to_contiguous_id[90] == 79
    assert metadata.stuff_dataset_id_to_contiguous_id[200] == 132


def test_ade20k_has_the_150_classes_of_the_challenge():
    metadata = MetadataCatalog.get("ade20k_sem_seg_val")
    assert metadata.classes == [name.split(",")[0].strip() for name in ADE20K_SEM_SEG_CATEGORIES]
    assert metadata.colors[0] == (120, 120, 120)
    assert metadata.colors[149] == (92, 0, 255)


def test_camvid_is_read_from_segnets_folders(datasets_folder):
    values = np.arange(12, dtype=np.uint8)[None]
    save(datasets_folder / "CamVid/train/a.png", random_image(1, 12))
    save(datasets_folder / "CamVid/trainannot/a.png", values)
    (labels,) = load_labels("camvid_train")
    assert labels.tolist() == [[*range(11), 255]]


def load_labels(split):
    """The label maps of a split."""
    return [MetadataCatalog.get(split).load_sem_seg(record) for record in DatasetCatalog.get(split)]


@pytest.mark.parametrize("root", ["CamVid", "camvid"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_camvid_index_labels(datasets_folder, root, suffix, split):
    stored = np.arange(12, dtype=np.uint8).reshape(3, 4)
    save(datasets_folder / root / split / f"0001TP_006690{suffix}", random_image(3, 4))
    save(datasets_folder / root / f"{split}_labels" / "0001TP_006690.png", stored)
    expected = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 255]]
    assert [labels.tolist() for labels in load_labels(f"camvid_{split}")] == [expected]


@pytest.mark.parametrize("name", ["0001TP_006690_L.png", "0001TP_006690.png"])
def test_camvid_color_labels_every_color(datasets_folder, name):
    names = MetadataCatalog.get("camvid_train").classes
    colors = [color for listed in CAMVID_COLORS.values() for color in listed]
    assert len(set(colors)) == 31
    expected = [names.index(label) for label, listed in CAMVID_COLORS.items() for _ in listed]
    row = np.array([[*colors, (0, 0, 0), (1, 2, 3)]], dtype=np.uint8)
    save(datasets_folder / "CamVid/train/0001TP_006690.png", random_image(1, 33))
    save(datasets_folder / "CamVid/train_labels" / name, row)
    assert load_labels("camvid_train")[0].tolist() == [[*expected, 255, 255]]


@pytest.mark.parametrize("root", ["ADEChallengeData2016", "ADEChallenge/ADEChallengeData2016"])
@pytest.mark.parametrize(("split", "folder"), [("train", "training"), ("val", "validation")])
def test_ade20k_labels_as_downloaded_and_as_prepared(datasets_folder, root, split, folder):
    stored = np.arange(151, dtype=np.uint8)[None]
    expected = [[255, *range(150)]]
    base = datasets_folder / root
    save(base / "images" / folder / "ADE_1.jpg", random_image(1, 151))
    save(base / "annotations" / folder / "ADE_1.png", stored)
    assert load_labels(f"ade20k_sem_seg_{split}")[0].tolist() == expected
    # Detectron2's folder, with 255 for 0, is preferred.
    save(base / "annotations_detectron2" / folder / "ADE_1.png", stored - np.uint8(1))
    record = DatasetCatalog.get(f"ade20k_sem_seg_{split}")[0]
    assert "annotations_detectron2" in record["sem_seg_file_name"]
    assert load_labels(f"ade20k_sem_seg_{split}")[0].tolist() == expected


def test_an_ade20k_label_out_of_range_names_the_file(datasets_folder):
    base = datasets_folder / "ADEChallengeData2016"
    save(base / "images/training/ADE_1.jpg", random_image(1, 2))
    save(base / "annotations/training/ADE_1.png", np.array([[3, 151]], dtype=np.uint8))
    with pytest.raises(InputError, match=r"ADE_1.png: label 151 is outside \[1, 151\) and is not the ignore"):
        load_labels("ade20k_sem_seg_train")


COCO_LAYOUTS = {
    "detectron2": ("coco/val2017", "coco/annotations", "coco/panoptic_val2017"),
    "archives": ("coco/val2017", "coco/annotations", "coco/annotations/panoptic_val2017"),
    "beside": ("coco/val2017", "annotations", "annotations/panoptic_val2017"),
}


@pytest.mark.parametrize("layout", COCO_LAYOUTS)
def test_coco_every_category_in_every_layout(datasets_folder, tmp_path, layout):
    ids = np.arange(1, 134).reshape(7, 19) * 1000
    segments = [{"id": (1 + i) * 1000, "category_id": one["id"]} for i, one in enumerate(COCO_CATEGORIES)]
    categories = [{key: one[key] for key in ("id", "name", "isthing")} for one in COCO_CATEGORIES]
    write_panoptic(tmp_path / "source", {"a": ids}, {"a": segments}, categories)
    for source, target in zip(("images", "panoptic.json", "panoptic"), _targets(layout), strict=True):
        (datasets_folder / target).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / source).rename(datasets_folder / target)
    (record,) = DatasetCatalog.get("coco_2017_val_panoptic")
    metadata = MetadataCatalog.get("coco_2017_val_panoptic")
    assert metadata.load_sem_seg(record).ravel().tolist() == list(range(133))
    loaded, info = metadata.load_panoptic(record)
    assert np.array_equal(loaded, rgb2id(np.array(Image.open(record["pan_seg_file_name"]))))
    assert [one["category_id"] for one in info] == list(range(133))
    assert [one["isthing"] for one in info] == [index < 80 for index in range(133)]
    assert (record["height"], record["width"], record["image_id"]) == (7, 19, 1)
    assert json.loads(Path(metadata.panoptic_json).read_text())["categories"] == categories


def _targets(layout):
    images, annotations, panoptic = COCO_LAYOUTS[layout]
    return images, f"{annotations}/panoptic_val2017.json", panoptic


def test_a_missing_dataset_names_the_folders_that_were_searched(datasets_folder):
    with pytest.raises(InputError) as caught:
        DatasetCatalog.get("coco_2017_val_panoptic")
    assert str(caught.value).startswith("coco_2017_val_panoptic: ")
    assert "set DETECTRON2_DATASETS" in str(caught.value)
    assert str(datasets_folder) in str(caught.value)


def test_the_real_camvid_labels(sample_data, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(sample_data))
    records = DatasetCatalog.get("camvid_train")
    metadata = MetadataCatalog.get("camvid_train")
    assert (len(records), len(DatasetCatalog.get("camvid_val"))) == (367, 101)
    for record in records[::60]:
        stored = np.array(Image.open(record["sem_seg_file_name"]))
        assert np.array_equal(metadata.load_sem_seg(record), np.where(stored == 11, 255, stored))


def test_the_real_coco_labels_agree_with_panopticapi(sample_data, tmp_path):
    content = {
        "root": str(sample_data / "coco_panoptic_sample"),
        "splits": {"coco_sample": "examples"},
        "images": "input_images",
        "panoptic": "panoptic_{split}",
        "annotations": "panoptic_{split}.json",
        "classes": "coco_panoptic",
    }
    records, metadata = load(write_yaml(tmp_path, content, "sample.yaml"))
    original = json.loads((sample_data / "coco_panoptic_sample/panoptic_examples.json").read_text())
    position = {one["id"]: index for index, one in enumerate(COCO_CATEGORIES)}
    assert len(records) == 2
    for record, annotation in zip(records, original["annotations"], strict=True):
        ids, info = metadata.load_panoptic(record)
        assert np.array_equal(ids, rgb2id(np.array(Image.open(record["pan_seg_file_name"]))))
        expected = [(one["id"], position[one["category_id"]]) for one in annotation["segments_info"]]
        assert [(one["id"], one["category_id"]) for one in info] == expected
        classes = metadata.load_sem_seg(record)
        for segment_id, index in expected:
            assert (classes[ids == segment_id] == index).all()
        assert (classes[ids == 0] == 255).all()
