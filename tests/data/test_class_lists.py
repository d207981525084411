"""Lists of classes of other programs become the classes of a YAML, with their colors."""

import numpy as np
import pytest
from data_trees import picture, save, write_yaml
from detectron2.data import DatasetCatalog

from segzoo.data import label_reader, read_dataset_file, register_dataset_file
from segzoo.errors import InputError

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
    save(tmp_path / "images/a.png", picture(9, 12))
    save(tmp_path / "masks/a.png", colors[labels])
    (tmp_path / "labelmap.txt").write_text(CVAT)
    register_dataset_file(write_yaml(tmp_path, {**BASE, "classes": "labelmap.txt", "encoding": "rgb"}))
    (record,) = DatasetCatalog.get("x")
    assert (label_reader("x").load_sem_seg(record) == labels).all()
