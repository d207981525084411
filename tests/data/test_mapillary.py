"""Mapillary Vistas v1.2: 65 classes, semantic and panoptic."""

import ast
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from segzoo.data import read_dataset_file
from segzoo.utils.errors import InputError
from tests.data.data_trees import random_image, save, write_panoptic

# The labels of config_v1.2.json in their order, by hand: a + marks those with instances.
LABELS = """
    +Bird, +Ground Animal, Curb, Fence, Guard Rail, Barrier, Wall, Bike Lane, +Crosswalk - Plain, Curb Cut,
    Parking, Pedestrian Area, Rail Track, Road, Service Lane, Sidewalk, Bridge, Building, Tunnel, +Person,
    +Bicyclist, +Motorcyclist, +Other Rider, +Lane Marking - Crosswalk, Lane Marking - General, Mountain,
    Sand, Sky, Snow, Terrain, Vegetation, Water, +Banner, +Bench, +Bike Rack, +Billboard, +Catch Basin,
    +CCTV Camera, +Fire Hydrant, +Junction Box, +Mailbox, +Manhole, +Phone Booth, Pothole, +Street Light,
    +Pole, +Traffic Sign Frame, +Utility Pole, +Traffic Light, +Traffic Sign (Back), +Traffic Sign (Front),
    +Trash Can, +Bicycle, +Boat, +Bus, +Car, +Caravan, +Motorcycle, On Rails, +Other Vehicle, +Trailer,
    +Truck, +Wheeled Slow, Car Mount, Ego Vehicle
"""
MARKED = [" ".join(one.split()) for one in LABELS.split(",")]
NAMES = [one.removeprefix("+") for one in MARKED]
# Some colors of config_v1.2.json.
COLORS = {
    0: (165, 42, 42),
    7: (128, 64, 255),
    13: (128, 64, 128),
    19: (220, 20, 60),
    24: (255, 255, 255),
    27: (70, 130, 180),
    55: (0, 0, 142),
    58: (0, 80, 100),
    64: (120, 10, 10),
}
SPLITS = {"train": "training", "val": "validation"}


def test_classes_things_colors_and_counts_are_those_of_version_1_2():
    dataset = read_dataset_file("mapillary_vistas")
    assert [entry.name for entry in dataset.classes] == NAMES
    assert [entry.isthing for entry in dataset.classes] == [one.startswith("+") for one in MARKED]
    assert sum(entry.isthing for entry in dataset.classes) == 37
    assert len(NAMES) - 37 == 28
    assert {index: dataset.classes[index].color for index in COLORS} == COLORS
    assert [entry.id for entry in dataset.classes] == list(range(1, 66))
    assert list(dataset.image_counts.values()) == [18000, 2000, 5000]


def test_names_and_colors_agree_with_mmsegmentation():
    spec = importlib.util.find_spec("mmseg")
    if spec is None:
        pytest.skip("mmsegmentation is not installed")
    # Read, not imported: its data sets need mmcv's compiled part.
    tree = ast.parse((Path(spec.origin).parent / "datasets/mapillary.py").read_text())
    peer = next(node for node in tree.body if getattr(node, "name", "") == "MapillaryDataset_v1")
    assignment = next(node.value for node in peer.body if isinstance(node, ast.Assign))
    classes, palette = (ast.literal_eval(keyword.value) for keyword in assignment.keywords)
    dataset = read_dataset_file("mapillary_vistas")
    assert [*(entry.name for entry in dataset.classes), "Unlabeled"] == list(classes)
    assert [*(list(entry.color) for entry in dataset.classes), [0, 0, 0]] == palette


@pytest.mark.parametrize("root", ["mapillary_vistas", "Mapillary"])
@pytest.mark.parametrize("version", ["", "v1.2/"])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("palette", [None, list(range(256)) * 3])
def test_every_value_in_every_layout_as_gray_and_as_palette(datasets_folder, root, version, split, palette):
    base = datasets_folder / root / SPLITS[split]
    save(base / "images/x_-1.jpg", random_image(6, 11))
    save(base / f"{version}labels/x_-1.png", np.arange(66, dtype=np.uint8).reshape(6, 11), palette=palette)
    (record,) = DatasetCatalog.get(f"mapillary_vistas_sem_seg_{split}")
    labels = MetadataCatalog.get(f"mapillary_vistas_sem_seg_{split}").load_sem_seg(record)
    # 65 is Unlabeled: ignored, as the benchmark does.
    assert labels.ravel().tolist() == [*range(65), 255]


def test_labels_of_version_2_are_refused(datasets_folder):
    base = datasets_folder / "mapillary_vistas/validation"
    save(base / "images/a.jpg", random_image(1, 2))
    save(base / "labels/a.png", np.array([[3, 123]], dtype=np.uint8))
    (record,) = DatasetCatalog.get("mapillary_vistas_sem_seg_val")
    with pytest.raises(
        InputError, match=r"a.png: label 123 is outside \[0, 65\) and is not the ignore label"
    ):
        MetadataCatalog.get("mapillary_vistas_sem_seg_val").load_sem_seg(record)


def test_the_test_set_has_images_only(datasets_folder):
    save(datasets_folder / "mapillary_vistas/testing/images/a.jpg", random_image(1, 2))
    (record,) = DatasetCatalog.get("mapillary_vistas_sem_seg_test")
    assert "sem_seg_file_name" not in record


@pytest.mark.parametrize("version", ["", "v1.2/"])
def test_every_category_of_the_panoptic_labels(datasets_folder, tmp_path, version):
    categories = [
        {"id": number, "name": name, "isthing": int(marked.startswith("+"))}
        for number, (name, marked) in enumerate(zip(NAMES, MARKED, strict=True), 1)
    ]
    ids = np.arange(66).reshape(6, 11) * 300
    segments = [{"id": number * 300, "category_id": number} for number in range(1, 66)]
    write_panoptic(tmp_path / "source", {"a": ids}, {"a": segments}, categories)
    base = datasets_folder / "mapillary_vistas/validation"
    base.mkdir(parents=True)
    (tmp_path / "source/images").rename(base / "images")
    (base / f"{version}panoptic").parent.mkdir(exist_ok=True)
    (tmp_path / "source/panoptic").rename(base / f"{version}panoptic")
    (tmp_path / "source/panoptic.json").rename(base / f"{version}panoptic/panoptic_2018.json")
    (record,) = DatasetCatalog.get("mapillary_vistas_panoptic_val")
    metadata = MetadataCatalog.get("mapillary_vistas_panoptic_val")
    assert metadata.load_sem_seg(record).ravel().tolist() == [255, *range(65)]
    loaded, info = metadata.load_panoptic(record)
    assert np.array_equal(loaded, ids)
    assert [one["isthing"] for one in info] == [one.startswith("+") for one in MARKED]
    assert len(metadata.thing_classes) == 37
