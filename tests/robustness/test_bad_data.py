"""Wrong dataset files, images, labels and panoptic JSONs: one line each, from a tool that reads them."""

import json
import os
import shutil

import numpy as np
import pytest
import yaml
from panopticapi.utils import id2rgb
from PIL import Image

from tests.data.data_trees import ROADS, STREET_IDS, random_image, save, write_roads, write_street, write_yaml

LABELS = np.array([[0, 1, 2, 3], [3, 4, 255, 0]], dtype=np.uint8)


@pytest.fixture
def drawing_fails(refusal):
    """The error of `segzoo visualize-data` for a dataset file."""
    return lambda file: refusal("visualize-data", "--dataset-file", file, "--output", "{output}")


def without(*keys):
    return dict.fromkeys(keys)


DATASET_FILES = {
    "no classes": (without("classes"), "roads.yaml: lacks classes: a list of names"),
    "no splits": (without("splits"), "roads.yaml: lacks splits"),
    "no labels": (without("labels"), "roads.yaml: lacks labels, the path of an image's label file"),
    "typing error": ({"clases": ["a"]}, "roads.yaml: unknown key clases; did you mean classes?"),
    "class twice": ({"classes": ["road", "road"]}, "two classes have the name 'road'; it must be unique"),
    "one class": ({"classes": ["road"]}, "a single class (road), with all else ignored, always scores 100"),
    "number as name": ({"classes": [1, 2]}, "class 0 has the name 1; write a string, quoted if needed"),
    "color": (
        {"classes": [{"name": "a", "color": [0, 0, 300]}, "b"]},
        "class 'a' has the color [0, 0, 300]",
    ),
    "class from itself": ({"classes": "roads.yaml"}, "classes names the file itself; list the classes"),
    "class from nowhere": ({"classes": "roads9"}, "dataset file roads9 does not exist"),
    "label map": ({"label_map": {"lane": "raod"}}, "label_map target 'raod' is unknown; did you mean road?"),
    "encoding": ({"encoding": "indx"}, "encoding"),
    "encoding's option": ({"encoding": {"type": "index", "offst": 1}}, "offst"),
    "flip pairs": ({"flip_pairs": [["road", "raod"]]}, "flip_pairs has the unknown class 'raod'"),
    "evaluator": ({"evaluator": "panoptic"}, "evaluator 'panoptic' needs the keys panoptic"),
    "one image only": ({"images": "a.png"}, "images 'a.png' is a single file; write a field for what varies"),
    "field": ({"labels": "{stm}.png"}, "labels '{stm}.png' has the unknown {stm}; did you mean stem?"),
    "other folder": ({"images": "pictures/{split}/{stem}.png"}, "roads_train: "),
    "other suffix": ({"labels": "masks/{split}/{stem}.jpg"}, "roads_train: "),
    "taken name": (
        {"splits": {"camvid_val": "train"}},
        "'camvid_val' is built in; register under a new name",
    ),
    "panoptic without JSON": (
        {"panoptic": "panoptic"},
        "panoptic (folder of PNGs) and annotations (JSON) need",
    ),
    "number for a path": ({"images": 3}, "images is 3; expected a path"),
}


@pytest.mark.parametrize("name", DATASET_FILES)
def test_a_wrong_dataset_file_is_one_line(drawing_fails, tmp_path, name):
    changes, message = DATASET_FILES[name]
    write_roads(tmp_path, LABELS)
    content = {key: value for key, value in {**ROADS, **changes}.items() if value is not None}
    assert message in drawing_fails(write_yaml(tmp_path, content))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [road", "roads.yaml: not a valid YAML file: while parsing"),
        ("", "roads.yaml: holds no keys; `segzoo check-data --keys` shows a dataset file"),
        ("- road\n", "roads.yaml: holds no keys"),
        (
            "name: !!python/object/apply:os.getcwd []",
            "roads.yaml: not a valid YAML file: could not determine",
        ),
    ],
)
def test_a_file_that_is_no_dataset_file_is_one_line(drawing_fails, tmp_path, text, message):
    (tmp_path / "roads.yaml").write_text(text)
    assert message in drawing_fails(tmp_path / "roads.yaml")


def truncated(path):
    save(path.with_name("whole.jpg"), random_image(64, 64))
    content = path.with_name("whole.jpg").read_bytes()
    path.with_name("whole.jpg").unlink()
    path.write_bytes(content[: len(content) // 2])


def cut_png(path):
    save(path, random_image(64, 64))
    path.write_bytes(path.read_bytes()[:-2000])


def damaged_png(path):
    save(path, random_image(64, 64))
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)


def huge(path):
    """A header that promises 20,000 x 20,000 pixels."""
    content = bytearray(path.read_bytes())
    content[16:24] = (20000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def floating(path):
    Image.fromarray(np.zeros((2, 4), np.float32)).save(path.with_suffix(".tif"))
    os.replace(path.with_suffix(".tif"), path)


def other_size(path):
    save(path, random_image(3, 4))


IMAGES = {
    "zero bytes": (
        lambda path: path.write_bytes(b""),
        "cannot be read as an image (it is empty); replace the",
    ),
    "zeros": (lambda path: path.write_bytes(bytes(5000)), "(unknown format, it begins with b'\\x00"),
    "text": (
        lambda path: path.write_text("hello"),
        "(unknown format, it begins with b'hello'); replace the",
    ),
    "HTML": (lambda path: path.write_text("<html>404"), "(unknown format, it begins with b'<html>404')"),
    "truncated JPEG": (truncated, "cannot be read as an image ("),
    "cut PNG": (cut_png, "cannot be read as an image ("),
    "damaged PNG": (damaged_png, "cannot be read as an image ("),
    "huge": (huge, "cannot be read as an image (more than 178 million pixels); cut it into tiles"),
    "floating point": (floating, "has floating-point pixels; set the values of black and white with"),
    "other size": (other_size, "is 4x2, but its image"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_wrong_image_is_one_line_that_names_it(drawing_fails, tmp_path, name):
    spoil, message = IMAGES[name]
    file = write_roads(tmp_path, LABELS)
    spoil(tmp_path / "images/train/a.png")
    line = drawing_fails(file)
    assert message in line
    assert "images/train/a.png" in line


def test_an_image_without_permission_is_one_line(drawing_fails, tmp_path, monkeypatch):
    file = write_roads(tmp_path, LABELS)
    image = tmp_path / "images/train/a.png"
    image.chmod(0)
    if os.access(image, os.R_OK):  # the superuser may read everything: the system's answer is simulated
        opened = open

        def refuse(path, *arguments, **options):
            if str(path) == str(image):
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *arguments, **options)

        monkeypatch.setattr("builtins.open", refuse)
    assert "a.png: cannot be read as an image (permission denied)" in drawing_fails(file)


LABEL_FILES = {
    "out of range": (
        np.full((2, 4), 7, np.uint8),
        "label 7 is outside [0, 5) and is not the ignore label 255",
    ),
    "several": (LABELS + np.uint8(3), "labels 5, 6, 7 are outside [0, 5)"),
    "size": (LABELS[:, :3], "is 3x2, but its image"),
    "transposed": (LABELS.T, "is 2x4, but its image"),
    "colors": (
        random_image(2, 4),
        "is a color image (RGB), but roads.yaml says encoding index; set encoding: rgb with its colors",
    ),
    "gray as RGB": (
        np.stack([LABELS] * 3, 2),
        "with three equal channels, but roads.yaml says encoding index",
    ),
    "floats": (LABELS / np.float32(2), "has floating-point labels such as 0.5, expected whole numbers"),
    "32 bits": (LABELS.astype(np.int32) * 100_000, "labels range from 0 to 25500000, expected [0, 65536)"),
    "16 bits": (LABELS.astype(np.uint16) * 200, "labels 200, 400, 600, 800, 51000 are outside [0, 5)"),
}


@pytest.mark.parametrize("name", LABEL_FILES)
def test_a_wrong_label_file_is_one_line_that_names_it(drawing_fails, tmp_path, name):
    labels, message = LABEL_FILES[name]
    file = write_roads(tmp_path, LABELS)
    (tmp_path / "masks/train/a.png").unlink()
    target = tmp_path / "masks/train/a.png"
    save(target.with_suffix(".tif"), labels).rename(target)
    line = drawing_fails(file)
    assert message in line
    assert "masks/train/a.png" in line


def test_binary_masks_of_0_and_255_are_explained(drawing_fails, tmp_path):
    mask = np.array([[0, 255], [255, 0]], np.uint8)
    file = write_roads(tmp_path, mask, classes=["background", "crack"])
    assert "255 is the ignore label, so no foreground remains. Set encoding: binary" in drawing_fails(file)


@pytest.mark.parametrize("name", ["zero bytes", "text", "cut PNG"])
def test_a_broken_label_file_is_one_line_that_names_it(drawing_fails, tmp_path, name):
    spoil, message = IMAGES[name]
    file = write_roads(tmp_path, LABELS)
    spoil(tmp_path / "masks/train/a.png")
    line = drawing_fails(file)
    assert message in line
    assert "masks/train/a.png" in line


def change(*path, to):
    """Sets a value in a JSON, by its keys and indices; None takes it out."""

    def apply(content):
        for step in path[:-1]:
            content = content[step]
        if to is None:
            del content[path[-1]]
        else:
            content[path[-1]] = to

    return apply


SEGMENTS = ("annotations", 0, "segments_info")
PANOPTIC_JSONS = {
    "no images": (change("images", to=None), "lacks the list 'images' of COCO's panoptic format"),
    "no annotations": (change("annotations", to=None), "lacks the list 'annotations'"),
    "no categories": (change("categories", to=None), "lacks the list 'categories'"),
    "image missing": (change("images", to=[]), "annotation a.png is of image 1, which is not in images"),
    "annotation without file": (change("annotations", 0, "file_name", to=None), "lacks 'file_name'"),
    "image of no file": (change("images", 0, "file_name", to="b.jpg"), "b.jpg"),
    "PNG of no file": (change("annotations", 0, "file_name", to="b.png"), "b.png"),
    "other size": (change("images", 0, "width", to=99), "99"),
    "segment missing": (change(*SEGMENTS, 0, to=None), "segment ids 70000 are not in the segments_info"),
    "id not in PNG": (
        change(*SEGMENTS, 0, "id", to=77),
        "70000 are not in the segments_info of the panoptic",
    ),
    "id without pixel": (
        lambda content: content["annotations"][0]["segments_info"].append({"id": 5, "category_id": 1}),
        "no pixel has the segment ids 5, which the panoptic JSON lists",
    ),
    "id twice": (
        change(*SEGMENTS, 1, "id", to=70000),
        "lists the segment ids 70000 twice; ids must be unique",
    ),
    "id 0": (change(*SEGMENTS, 0, "id", to=0), "segment ids 0; expected 1..2**24-1"),
    "id too large": (change(*SEGMENTS, 0, "id", to=1 << 24), "segment ids 16777216; expected 1..2**24-1"),
    "id as text": (
        change(*SEGMENTS, 0, "id", to="sky"),
        'a segment of a.png has the id "sky"; expected a whole',
    ),
    "no id": (
        change(*SEGMENTS, 0, "id", to=None),
        "a segment of a.png lacks 'id'; COCO's panoptic format has it",
    ),
    "no category": (change(*SEGMENTS, 0, "category_id", to=None), "lacks 'category_id'"),
    "unknown category": (
        change(*SEGMENTS, 0, "category_id", to=77),
        "has the category 77, which is not among",
    ),
    "category as list": (
        change(*SEGMENTS, 0, "category_id", to=[1]),
        "segment 70000 of a.png has the category [1], which is not among its categories (1, 3, 4",
    ),
    "class unknown": (change("categories", 0, "name", to="raod"), "is neither a class of street.yaml nor in"),
    "without isthing": (change("categories", 0, "isthing", to=None), "lacks 'isthing'; COCO's format has it"),
    "other isthing": (change("categories", 0, "isthing", to=1), "has isthing 1, but street.yaml says 0"),
    "category twice": (
        change("categories", 1, "id", to=1),
        "two categories have the id 1; it must be unique",
    ),
    "image twice": (
        lambda content: content["images"].append(content["images"][0]),
        "two images have the id 1; it must be unique",
    ),
    "annotation twice": (
        lambda content: content["annotations"].append(content["annotations"][0]),
        "two annotations are of image 1",
    ),
    "segments no list": (change(*SEGMENTS, to=7), "(image 1) has the segments_info 7; COCO's"),
    "annotation no dict": (change("annotations", 0, to="a.png"), "annotation"),
    "instances": (change(*SEGMENTS, to=None), "annotations have no segments_info; is it an instances file?"),
}


@pytest.mark.parametrize("name", PANOPTIC_JSONS)
def test_a_wrong_panoptic_json_is_one_line(drawing_fails, tmp_path, name):
    spoil, message = PANOPTIC_JSONS[name]
    file = write_street(tmp_path)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    spoil(content)
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    assert message in drawing_fails(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "panoptic.json: cannot be read as JSON ("),
        (b'{"images": [', "panoptic.json: cannot be read as JSON ("),
        (b"\xff\xfe\x00", "panoptic.json: cannot be read as JSON ("),
        (b"[]", "panoptic.json: holds a list (of results?); expected COCO's panoptic format"),
        (b"<html>", "panoptic.json: cannot be read as JSON ("),
        (b"[" * 100_000, "panoptic.json: cannot be read as JSON ("),
    ],
)
def test_a_file_that_is_no_panoptic_json_is_one_line(drawing_fails, tmp_path, content, message):
    file = write_street(tmp_path)
    (tmp_path / "panoptic.json").write_bytes(content)
    assert message in drawing_fails(file)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (
            np.zeros((4, 6), np.uint8),
            "a panoptic PNG holds segment ids as RGB, found mode L; write R + 256 G",
        ),
        (id2rgb(STREET_IDS.astype(np.uint32))[:, :5], "is 5x4, but its image"),
        (id2rgb((STREET_IDS + 1).astype(np.uint32)), "are not in the segments_info of the panoptic JSON"),
    ],
)
def test_a_wrong_panoptic_png_is_one_line(drawing_fails, tmp_path, pixels, message):
    file = write_street(tmp_path)
    save(tmp_path / "panoptic/a.png", pixels)
    line = drawing_fails(file)
    assert message in line
    assert "panoptic/a.png" in line


def test_wrong_areas_and_boxes_are_harmless(tool, tmp_path):
    """Areas and boxes of the JSON are never used to read, and void needs no segment."""
    file = write_street(tmp_path)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    for segment in content["annotations"][0]["segments_info"]:
        segment.update(area=1, bbox=[0, 0, 0, 0])
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    assert tool("visualize-data", "--dataset-file", file, "--output", tmp_path / "drawn").status == 0


INSTANCE_JSONS = {
    "no image": (change("annotations", 0, "image_id", to=9), "annotation 1 is of image 9, which is not in"),
    "no segmentation": (
        change("annotations", 0, "segmentation", to=None),
        "annotation 1 has no segmentation",
    ),
    "odd polygon": (
        change("annotations", 0, "segmentation", to=[[1, 2, 3]]),
        "has a polygon of 3 coordinates, an odd number",
    ),
    "text in a polygon": (change("annotations", 0, "segmentation", to=[["a"] * 6]), "annotation 1"),
    "size of RLE": (
        change("annotations", 0, "segmentation", to={"size": [9, 9], "counts": [81]}),
        "annotation 1 has an RLE of 9x9, but its image is 4x2",
    ),
    "sum of RLE": (
        change("annotations", 0, "segmentation", to={"size": [2, 4], "counts": [3]}),
        "annotation 1 has an RLE of 3 pixels, but its image has 8",
    ),
    "text of RLE": (
        change("annotations", 0, "segmentation", to={"size": [2, 4], "counts": "~~~~"}),
        "annotation 1: its segmentation cannot be read",
    ),
    "category": (
        change("annotations", 0, "category_id", to=9),
        "annotation 1 has the category 9, which is not",
    ),
    "image twice": (
        lambda content: content["images"].append(content["images"][0]),
        "two images have the id 1",
    ),
}


def write_instances(folder_):
    save(folder_ / "images/a.png", random_image(2, 4))
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": [[0, 0, 3, 0, 3, 1]],
        "iscrowd": 0,
    }
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 2, "width": 4}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "car"}],
    }
    (folder_ / "instances.json").write_text(json.dumps(content))
    dataset = {
        "splits": {"cars_train": "train"},
        "images": "images",
        "instances": "instances.json",
        "classes": ["car"],
    }
    (folder_ / "cars.yaml").write_text(yaml.safe_dump(dataset))
    return folder_ / "cars.yaml"


@pytest.mark.parametrize("name", INSTANCE_JSONS)
def test_a_wrong_instances_json_is_one_line(refusal, tmp_path, name):
    spoil, message = INSTANCE_JSONS[name]
    file = write_instances(tmp_path)
    content = json.loads((tmp_path / "instances.json").read_text())
    spoil(content)
    (tmp_path / "instances.json").write_text(json.dumps(content))
    line = refusal("visualize-data", "--dataset-file", file, "--output", "{output}")
    assert message in line


def test_a_dataset_that_is_not_there_is_one_line(drawing_fails, tmp_path):
    file = write_roads(tmp_path, LABELS)
    shutil.rmtree(tmp_path / "images")
    assert "roads_train: " in drawing_fails(file)
