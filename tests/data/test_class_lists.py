"""Lists of classes of other programs become the classes of a YAML, with their colors."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from segzoo.data import label_reader, read_dataset_file, register_dataset_file
from segzoo.utils.errors import InputError
from tests.data.data_trees import random_image, save, write_yaml

BASE = {"splits": {"x": "x"}, "images": "images/{stem}.png", "labels": "masks/{stem}.png"}
CVAT = """# label:color_rgb:parts:actions
background:0,0,0::
traffic light:250, 170,30:left,right:
car:0,0,142::parked
"""


def classes_of(folder, text, name="labelmap.txt", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    dataset = read_dataset_file(write_yaml(folder, {**BASE, "classes": name}))
    return [(entry.name, entry.color if entry.color_is_given else None) for entry in dataset.classes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CVAT, [("background", (0, 0, 0)), ("traffic light", (250, 170, 30)), ("car", (0, 0, 142))]),
        ("road\ncar\n\nsky\n", [("road", None), ("car", None), ("sky", None)]),
        ("# a remark\nroad\n  traffic light \n", [("road", None), ("traffic light", None)]),
        ("__ignore__\n_background_\ncat\n", [("_background_", None), ("cat", None)]),
        ("name,r,g,b\nRoad,128,64,128\nCar, 64,0,128\n", [("Road", (128, 64, 128)), ("Car", (64, 0, 128))]),
        ("road:1,2,3\ncar:::\n", [("road", (1, 2, 3)), ("car", None)]),
        ("route: bonne\nciel\n", [("route: bonne", None), ("ciel", None)]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_each_form_is_read(tmp_path, text, expected, encoding):
    assert classes_of(tmp_path, text, encoding=encoding) == expected
    assert classes_of(tmp_path, text.replace("\n", "\r\n"), "classes.txt", encoding) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "labelmap.txt: lists no classes; expected a name per line"),
        ("road:1,2,3::\nwhat is this\n", "line 2 is 'what is this', expected name:r,g,b:parts:actions"),
        ("name,r,g,b\nroad,1,2\n", "line 2 is 'road,1,2', expected name,r,g,b"),
        ("road:300,2,3::\ncar:1,2,3::\n", r"class 'road' has the color \[300, 2, 3\]"),
        ("road\nroad\n", "two classes have the name 'road'"),
    ],
)
def test_other_lines_are_named(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        classes_of(tmp_path, text)


def test_cvats_masks_are_read_by_the_colors_of_its_labelmap(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (9, 12))
    colors = np.array([(0, 0, 0), (250, 170, 30), (0, 0, 142)], np.uint8)
    save(tmp_path / "images/a.png", random_image(9, 12))
    save(tmp_path / "masks/a.png", colors[labels])
    (tmp_path / "labelmap.txt").write_text(CVAT)
    register_dataset_file(write_yaml(tmp_path, {**BASE, "classes": "labelmap.txt", "encoding": "rgb"}))
    (record,) = DatasetCatalog.get("x")
    assert (label_reader("x").load_sem_seg(record) == labels).all()


@pytest.mark.parametrize(
    "text",
    [
        "Pixel Value, Class\n0, unlabeled\n1, 3 wheeler\n2, sky, clear\n",  # Roboflow
        "id,name\n0,unlabeled\n1,3 wheeler\n2,sky, clear\n",
        "0: unlabeled\n1: 3 wheeler\n2: sky, clear\n",
        "0 unlabeled\n1 3 wheeler\n2 sky, clear\n",
        "0\tunlabeled\n1\t3 wheeler\n2\tsky, clear\n",
    ],
)
def test_numbers_before_names_are_not_part_of_the_names(tmp_path, text):
    found = [("unlabeled", None), ("3 wheeler", None), ("sky, clear", None)]
    assert classes_of(tmp_path, text, "_classes.csv") == found


def test_numbers_that_do_not_count_from_0_are_ids(tmp_path):
    (tmp_path / "_classes.csv").write_text("Pixel Value, Class\n24, car\n7, road\n")
    content = {**BASE, "classes": "_classes.csv"}
    labels = np.array([[7, 24], [24, 7]], np.uint8)
    save(tmp_path / "images/a.png", random_image(2, 2))
    save(tmp_path / "masks/a.png", labels)
    register_dataset_file(write_yaml(tmp_path, content))
    (record,) = DatasetCatalog.get("x")
    assert label_reader("x").dataset.space.classes == ("road", "car")
    assert (label_reader("x").load_sem_seg(record) == (labels == 24)).all()
    # What the YAML says counts, and lists that are numbered from 0 change nothing.
    dataset = read_dataset_file(write_yaml(tmp_path, {**content, "encoding": "index"}))
    assert dataset.layouts[0].encoding.name == "index"
    per_class = {**content, "labels": "masks/{stem}-{class}.png"}
    assert read_dataset_file(write_yaml(tmp_path, per_class)).layouts[0].encoding.name == "binary_files"
    (tmp_path / "_classes.csv").write_text("0 car\n1 road\n")
    assert read_dataset_file(write_yaml(tmp_path, content)).layouts[0].encoding.name == "index"


@pytest.mark.parametrize("text", ["id,name\n0,road\ncar\n", "id,name\n0,road\n0,car\n"])
def test_a_wrong_line_of_a_numbered_list_is_named(tmp_path, text):
    with pytest.raises(InputError, match=r"_classes\.csv: line 3 "):
        classes_of(tmp_path, text, "_classes.csv")


def test_names_that_begin_with_digits_are_names(tmp_path):
    assert classes_of(tmp_path, "2 wheeler\ncar\n") == [("2 wheeler", None), ("car", None)]


def test_classes_may_be_a_mapping_from_0_as_in_yolo(tmp_path):
    listed = {0: "road", 1: "car"}
    dataset = read_dataset_file(write_yaml(tmp_path, {**BASE, "classes": listed}))
    assert dataset.space.classes == ("road", "car")
    for wrong in ({1: "road", 2: "car"}, {"road": 0, "car": 1}):
        with pytest.raises(InputError, match=r"classes is a mapping of .*; write a list of names"):
            read_dataset_file(write_yaml(tmp_path, {**BASE, "classes": wrong}))
