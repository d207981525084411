"""A dataset YAML is checked when it is registered; a mistake is explained in one line."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from segzoo.data import read_dataset_file, register_dataset_file
from segzoo.utils.errors import InputError
from tests.data.data_trees import (
    ROADS,
    STREET,
    STREET_CATEGORIES,
    STREET_IDS,
    STREET_SEGMENTS,
    load,
    random_image,
    save,
    write_panoptic,
    write_roads,
    write_street,
    write_yaml,
)

LABELS = np.array([[0, 1, 2], [3, 4, 255]], dtype=np.uint8)


def changed(content, **changes):
    """The content with some keys replaced, or removed (None)."""
    merged = {**copy.deepcopy(content), **changes}
    return {key: value for key, value in merged.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clases": []}, "unknown key clases; did you mean classes?"),
        ({"classes": None}, "lacks classes"),
        ({"classes": []}, "lacks classes"),
        ({"classes": ["road"]}, "a single class (road), with all else ignored, always scores 100"),
        ({"classes": ["road", "sky", "road"]}, "two classes have the name 'road'"),
        ({"classes": ["road", "void"]}, "class 1 is called void"),
        ({"classes": ["road", True]}, "class 1 has the name True; write a string, quoted if needed"),
        (
            {"classes": ["road", {"name": "sky", "colour": [1, 2, 3]}]},
            "unknown key colour; did you mean color?",
        ),
        ({"classes": ["road", {"name": "sky", "color": [1, 2, 300]}]}, "'sky' has the color [1, 2, 300]"),
        ({"classes": ["road", {"name": "sky", "id": "b"}]}, "'sky' has the id 'b'"),
        ({"classes": [{"name": "a", "id": 3}, {"name": "b", "id": 3}]}, "two classes have the id 3"),
        ({"classes": ["road", {"name": "sky", "isthing": "no thing"}]}, "isthing 'no thing'"),
        ({"classes": "camvit"}, "dataset file camvit does not exist; did you mean camvid?"),
        ({"splits": None}, "lacks splits"),
        ({"images": None}, "lacks images"),
        ({"images": "images/a.jpg"}, "is a single file; write a field for what varies"),
        ({"labels": None}, "lacks labels"),
        ({"labels": "masks/{sten}.png"}, "has the unknown {sten}; did you mean stem?"),
        ({"labels": 3}, "labels is 3; expected a path"),
        ({"panoptic": "panoptic"}, "panoptic (folder of PNGs) and annotations (JSON) need each other"),
        ({"evaluator": "panoptic"}, "needs the keys panoptic and annotations"),
        ({"encoding": "indx"}, "encoding 'indx' is unknown; did you mean index?"),
        ({"label_map": {"road": "vehicel"}}, "label_map target 'vehicel' is unknown"),
        ({"label_map": {"building": "sjy"}}, "label_map target 'sjy' is unknown; did you mean sky?"),
        (
            {"label_map": {"bilding": "sky"}},
            "label_map source 'bilding' is not a label of the files; did you mean",
        ),
        ({"label_map": [1]}, "expected {label in the files: class}"),
        ({"flip_pairs": [["road", "car", "sky"]]}, "flip_pairs has ['road', 'car', 'sky']"),
        ({"submission": "coco"}, "submission is 'coco'; expected coco_stuff; without the key"),
        (
            {"submission": "coco_stuff"},
            "submission is for splits without labels; name them",
        ),
        ({"flip_pairs": [["road", "carr"]]}, "flip_pairs has the unknown class 'carr'; did you mean car?"),
        ({"flip_pairs": [["road", "car"], ["car", "sky"]]}, "flip_pairs has 'car' twice"),
        ({"layouts": {}}, "expected a list of mappings"),
        ({"layouts": [None]}, "roads.yaml: layouts: None is not a mapping of keys to values"),
        ({"layouts": [{"root": None}]}, "roads.yaml: root is None; expected a folder or a list of folders"),
        ({"root": []}, "root is []; expected a folder or a list of folders"),
        ({"root": [None]}, "root is [None]; expected a folder or a list of folders"),
        (
            {"panoptic": "panoptic", "annotations": "panoptic.json", "list": "train.txt"},
            "list cannot be combined with panoptic, whose annotations list the images; remove it",
        ),
        ({"encoding": "rgb"}, "encoding rgb: class 'road' has no color; give it one under color"),
        ({"image_counts": 3}, "roads.yaml: image_counts: 3 is not a mapping of keys to values"),
        ({"layouts": [{"lables": "a"}]}, "layouts: unknown key lables; did you mean labels?"),
        (
            {"image_counts": {"roads_val": 3}},
            "image_counts of unknown split roads_val; did you mean roads_train?",
        ),
        ({"splits": {"camvid_train": "train"}}, "'camvid_train' is built in; register under a new name"),
        (
            {"splits": {"coco_2017_train": "train"}},
            "'coco_2017_train' is built in; register under a new name",
        ),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, changes, message):
    file = write_yaml(tmp_path, changed(ROADS, **changes))
    with pytest.raises(InputError) as caught:
        register_dataset_file(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [("a: [1", "not a valid YAML file"), ("- a", "holds no keys")])
def test_a_file_that_is_not_a_mapping_is_explained(tmp_path, text, message):
    (tmp_path / "roads.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        register_dataset_file(tmp_path / "roads.yaml")


def test_a_missing_file_suggests_the_nearest_built_in_one():
    with pytest.raises(InputError, match=r"dataset file camvi does not exist; did you mean camvid?"):
        register_dataset_file("camvi")


def test_a_registered_dataset_has_what_detectron2_and_evaluators_look_for(tmp_path):
    records, metadata = load(write_roads(tmp_path, LABELS, flip_pairs=[["car", "person"]]))
    (record,) = records
    assert record["file_name"] == str(tmp_path / "images/train/a.png")
    assert record["sem_seg_file_name"] == str(tmp_path / "masks/train/a.png")
    assert record["image_id"] == "a"
    assert metadata.name == "roads_train"
    assert metadata.classes == metadata.stuff_classes == ROADS["classes"]
    assert metadata.isthing == [False] * 5
    assert metadata.flip_pairs == [(3, 4)]
    assert metadata.evaluator_type == "sem_seg"
    assert len(set(metadata.colors)) == 5
    assert metadata.load_sem_seg(record).tolist() == LABELS.tolist()


def test_registering_a_changed_file_again_replaces_it_and_another_file_may_not_take_its_name(tmp_path):
    file = write_roads(tmp_path, LABELS)
    register_dataset_file(file)
    renamed = ["street", "building", "sky", "car", "person"]
    assert register_dataset_file(write_yaml(tmp_path, {**ROADS, "classes": renamed})) == ["roads_train"]
    assert MetadataCatalog.get("roads_train").classes == renamed
    with pytest.raises(
        InputError, match=r"'roads_train' is registered by .*roads.yaml; register under a new"
    ):
        register_dataset_file(write_yaml(tmp_path, ROADS, "other.yaml"))


def test_the_root_is_read_when_the_dataset_is_loaded(datasets_folder, tmp_path, monkeypatch):
    save(tmp_path / "elsewhere/CamVid/train/a.png", random_image(2, 3))
    save(tmp_path / "elsewhere/CamVid/train_labels/a.png", LABELS)
    with pytest.raises(InputError):
        DatasetCatalog.get("camvid_train")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "elsewhere"))
    assert len(DatasetCatalog.get("camvid_train")) == 1


def test_a_private_root_is_beside_the_yaml_or_below_the_datasets_folder(datasets_folder, tmp_path):
    file = write_yaml(tmp_path / "yamls", {**ROADS, "root": "roads"})
    write_roads(datasets_folder / "roads", LABELS)
    assert str(datasets_folder) in load(file)[0][0]["file_name"]
    write_roads(tmp_path / "yamls/roads", LABELS)
    assert str(tmp_path / "yamls") in load(file)[0][0]["file_name"]


def test_merging_by_class_name(tmp_path):
    stored = np.array([[0, 1, 2], [3, 4, 255]], dtype=np.uint8)
    file = write_roads(
        tmp_path,
        stored,
        classes=["road", "vehicle", "person"],
        encoding={"type": "index", "values": ["road", "car", "truck", "person", "unclear"]},
        label_map={"car": "vehicle", "truck": "vehicle", "unclear": "void"},
    )
    records, metadata = load(file)
    assert metadata.load_sem_seg(records[0]).tolist() == [[0, 1, 1], [2, 255, 255]]
    assert metadata.label_map == {"car": "vehicle", "truck": "vehicle", "unclear": "void"}


def test_panoptic_categories_merge_by_name_and_stuff_becomes_one_segment(tmp_path):
    write_panoptic(tmp_path, {"a": STREET_IDS}, {"a": STREET_SEGMENTS}, STREET_CATEGORIES)
    content = changed(
        STREET,
        classes=["background", {"name": "car", "isthing": True}],
        label_map={"road": "background", "sky": "background", "person": "void"},
    )
    records, metadata = load(write_yaml(tmp_path, content, "street.yaml"))
    ids, info = metadata.load_panoptic(records[0])
    expected = STREET_IDS.copy()
    expected[STREET_IDS == 12] = 70000
    expected[np.isin(STREET_IDS, [300, 66051])] = 0
    assert np.array_equal(ids, expected)
    assert [(one["id"], one["category_id"], one["area"]) for one in info] == [
        (70000, 0, 7 + 3),
        (500, 1, 4),
        (7, 1, 4),
    ]
    classes = metadata.load_sem_seg(records[0])
    assert np.array_equal(classes, np.select([expected == 70000, expected > 0], [0, 1], 255))


@pytest.mark.parametrize("missing", [{12: ["area", "bbox"]}, {70000: ["area"], 12: ["bbox"]}, {}])
def test_segments_have_the_areas_of_the_png_whatever_the_json_says(tmp_path, missing):
    file = write_street(
        tmp_path, classes=["ground", *STREET["classes"][1::2]], label_map={"road": "ground", "sky": "ground"}
    )
    content = json.loads((tmp_path / "panoptic.json").read_text())
    for segment in content["annotations"][0]["segments_info"]:
        for key in missing.get(segment["id"], ()):
            del segment[key]
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    _, info = load_panoptic(file)
    expected = {one: int((one == STREET_IDS).sum()) for one in np.unique(STREET_IDS) if one}
    expected[70000] += expected.pop(12)
    assert {one["id"]: one["area"] for one in info} == expected
    without = {number for number, keys in missing.items() if "area" in keys}
    stated = [one for segment in info for one in segment.get("stated_areas", ())]
    assert stated == [(number, "missing", int((number == STREET_IDS).sum())) for number in without]


def test_segments_of_the_category_void_are_void_without_a_label_map(tmp_path):
    segments = [{**one, "category_id": 20} if one["id"] in (12, 300) else one for one in STREET_SEGMENTS]
    categories = [*STREET_CATEGORIES, {"id": 20, "name": "void", "isthing": 0}]
    write_panoptic(tmp_path, {"a": STREET_IDS}, {"a": segments}, categories)
    ids, info = load_panoptic(write_yaml(tmp_path, STREET, "street.yaml"))
    assert np.array_equal(ids, np.where(np.isin(STREET_IDS, [12, 300]), 0, STREET_IDS))
    assert {one["id"] for one in info} == set(np.unique(ids)) - {0}


def test_classes_and_flip_pairs_can_be_those_of_another_dataset(tmp_path):
    write_yaml(tmp_path, {**ROADS, "flip_pairs": [["car", "person"]]}, "lender.yaml")
    borrowing = read_dataset_file(write_yaml(tmp_path, {**ROADS, "classes": "lender.yaml"}))
    assert [entry.name for entry in borrowing.classes] == ROADS["classes"]
    assert borrowing.flip_pairs == ((3, 4),)
    assert len(read_dataset_file(write_yaml(tmp_path, {**ROADS, "classes": "coco_panoptic"})).classes) == 133


def load_panoptic(file):
    """Reads the first image's segments."""
    records, metadata = load(file)
    return metadata.load_panoptic(records[0])


def break_json(**changes):
    """A change of panoptic.json."""

    def apply(content):
        content.update(changes)

    return apply


def remove_isthing(content):
    del content["categories"][1]["isthing"]


def unknown_category(content):
    content["annotations"][0]["segments_info"][0]["category_id"] = 77


def remove_segment(content):
    del content["annotations"][0]["segments_info"][1]


def add_segment(content):
    content["annotations"][0]["segments_info"].append({"id": 99, "category_id": 1, "iscrowd": 0})


def too_large_id(content):
    content["annotations"][0]["segments_info"][0]["id"] = 1 << 24


def other_isthing(content):
    content["categories"][0]["isthing"] = 1


def misspelt(content):
    content["categories"][1]["name"] = "cars"


def other_image(content):
    content["annotations"][0]["image_id"] = 5


def instances_file(content):
    del content["annotations"][0]["segments_info"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_isthing, "panoptic.json: category 3 'car' lacks 'isthing'"),
        (unknown_category, "panoptic.json: segment 70000 of a.png has the category 77, which is not among"),
        (remove_segment, "a.png: segment ids 500 are not in the segments_info of the panoptic JSON"),
        (add_segment, "a.png: no pixel has the segment ids 99, which the panoptic JSON lists"),
        (too_large_id, "a.png: the panoptic JSON has segment ids 16777216"),
        (other_isthing, "category 1 'road' has isthing 1, but street.yaml says 0 for 'road'"),
        (
            misspelt,
            "category 3 'cars' is neither a class of street.yaml nor in its label_map; did you mean car?",
        ),
        (other_image, "annotation a.png is of image 5, which is not in images"),
        (instances_file, "annotations have no segments_info; is it an instances file?"),
        (break_json(categories=None), "lacks the list 'categories'"),
    ],
)
def test_a_contradictory_panoptic_json_is_explained(tmp_path, change, message):
    file = write_street(tmp_path)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    change(content)
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        load_panoptic(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("images/a.jpg", "1 of 1 images do not exist: "),
        ("panoptic/a.png", "1 of 1 panoptic PNGs do not exist: "),
        ("panoptic.json", "panoptic.json does not exist; set DETECTRON2_DATASETS"),
    ],
)
def test_missing_panoptic_files_are_named(tmp_path, remove, message):
    file = write_street(tmp_path)
    Path(tmp_path / remove).unlink()
    with pytest.raises(InputError, match=message):
        load(file)


def test_an_unknown_label_map_source_of_a_panoptic_dataset_is_found_when_it_is_loaded(tmp_path):
    with pytest.raises(
        InputError, match=r"label_map source 'persn' is not a category of .* did you mean person?"
    ):
        load(write_street(tmp_path, label_map={"persn": "void"}))
