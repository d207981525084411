"""Each remedy that `segzoo check-data` proposes is written into the YAML: the labels are then the true ones.

The ground truth is what the test has drawn; the check then finds no problems.
"""

import json

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog
from PIL import Image
from pycocotools import mask as mask_tools

from segzoo.cli import check_data
from segzoo.data import label_reader
from tests.data.data_trees import random_image, save
from tests.robustness.checked_trees import (
    COLORED,
    COLORS,
    HEIGHT,
    NAMES,
    VOID,
    WIDTH,
    apply,
    check,
    draw,
    labels_of,
    options_of,
    write,
    write_dataset_yaml,
)


def in_values(table, dtype=np.uint8):
    """Stores labels as the values of a table {label: value}."""

    def store(labels, path):
        values = np.zeros(labels.shape, dtype)
        for label, value in table.items():
            values[labels == label] = value
        Image.fromarray(values).save(path)

    return store


def in_rgb_values(table):
    def store(labels, path):
        in_values(table)(labels, path)
        Image.open(path).convert("RGB").save(path)

    return store


def in_colors(table, quantized=False):
    def store(labels, path):
        colors = np.zeros((*labels.shape, 3), np.uint8)
        for label, color in table.items():
            colors[labels == label] = color
        image = Image.fromarray(colors)
        (image.quantize(16) if quantized else image).save(path)

    return store


def per_class(template, names):
    """Stores a 0/255 mask for each {name in files: label}."""

    def store(labels, path):
        for name, label in names.items():
            mask = (labels == label) * np.uint8(255)
            save(path.parent / template.format(stem=path.stem, name=name), mask)

    return store


def palette_in_turn(labels, path):
    """Index masks whose palette, of no class's colors, is shifted from file to file, as is the index."""
    shift = int(path.stem)
    image = Image.fromarray(((labels + shift) % 3).astype(np.uint8))
    colors = np.array([(9, 9, 9), (60, 200, 9), (200, 20, 77)], np.uint8)
    image.putpalette(np.roll(colors, shift, axis=0).tobytes())
    image.save(path)


FROM_1 = {VOID: 0, 0: 1, 1: 2, 2: 3}
BY_COLOR = dict(enumerate(COLORS))
WITH_BORDER = BY_COLOR | {VOID: (224, 224, 192)}
TWO = ("background", "crack")
WITH_IDS = [{"name": name, "id": number} for name, number in zip(NAMES, (7, 26, 23), strict=True)]
CASES = {
    "values from 1, 0 unlabeled": (draw([0, 1, 2, VOID]), in_values(FROM_1), {}),
    "values from 1": (draw([0, 1, 2]), in_values(FROM_1), {}),
    "values from 1, 255 void": (draw([0, 1, 2, VOID]), in_values({0: 1, 1: 2, 2: 3, VOID: 255}), {}),
    "values from 1, in three channels": (draw([0, 1, 2, VOID]), in_rgb_values(FROM_1), {}),
    "steps of 50": (draw([0, 1, 2]), in_values({0: 0, 1: 50, 2: 100}), {}),
    "steps over 8 bits": (draw([0, 1, 2]), in_values({0: 0, 1: 128, 2: 255}), {}),
    "steps over 8 bits, three channels": (draw([0, 1, 2]), in_rgb_values({0: 0, 1: 127, 2: 255}), {}),
    "steps, and 255 void": (draw([0, 1, 2, VOID]), in_values({0: 0, 1: 50, 2: 100, VOID: 255}), {}),
    "steps from 10": (draw([0, 1, 2]), in_values({0: 10, 1: 20, 2: 30}), {}),
    "steps from 10, 0 unlabeled": (draw([0, 1, 2, VOID]), in_values({VOID: 0, 0: 10, 1: 20, 2: 30}), {}),
    "steps of 16 bits": (draw([0, 1, 2]), in_values({0: 0, 1: 1000, 2: 2000}, np.uint16), {}),
    "0 and 255": (draw([0, 1]), in_values({0: 0, 1: 255}), {"classes": TWO}),
    "0 and 255 in three channels": (draw([0, 1]), in_rgb_values({0: 0, 1: 255}), {"classes": TWO}),
    "0 and 100": (draw([0, 1]), in_values({0: 0, 1: 100}), {"classes": TWO}),
    "the ids of the YAML": (draw([0, 1, 2]), in_values({0: 7, 1: 26, 2: 23}), {"classes": WITH_IDS}),
    "the ids, and 0": (
        draw([0, 1, 2, VOID]),
        in_values({0: 7, 1: 26, 2: 23, VOID: 0}),
        {"classes": WITH_IDS},
    ),
    "indices in three channels": (draw([0, 1, 2]), in_rgb_values({0: 0, 1: 1, 2: 2}), {}),
    "indices, called colors": (
        draw([0, 1, 2]),
        in_values({0: 0, 1: 1, 2: 2}),
        {"encoding": "rgb", "classes": COLORED},
    ),
    "colors": (draw([0, 1, 2]), in_colors(BY_COLOR), {"classes": COLORED}),
    "colors and a border": (draw([0, 1, 2, VOID]), in_colors(WITH_BORDER), {"classes": COLORED}),
    "colors with a palette": (draw([0, 1, 2]), in_colors(BY_COLOR, True), {"classes": COLORED}),
    "colors and a border with a palette": (
        draw([0, 1, 2, VOID]),
        in_colors(WITH_BORDER, True),
        {"classes": COLORED},
    ),
    "a mask per class": (
        draw([0, 1, 2]),
        per_class("{stem}-{name}.png", {"car": 1, "sky": 2}),
        {"labels": "masks/{stem}-*.png"},
    ),
    "a mask per class, all of them": (
        draw([0, 1, 2, VOID]),
        per_class("{stem}_{name}.png", {"Road": 0, "Car": 1, "Sky": 2}),
        {"labels": "masks/{stem}_*.png"},
    ),
    "a numbered mask per class": (
        draw([0, 1, 2]),
        per_class("{stem}-{name}-0.png", {"car": 1, "sky": 2}),
        {"labels": "masks/{stem}-*-*.png"},
    ),
    "a mask per class, taken for one class": (
        draw([0, 1, 2]),
        per_class("{stem}-{name}.png", {"car": 1, "sky": 2}),
        {"labels": "masks/{stem}-*.png", "label_map": {255: "car"}},
    ),
    "a folder per class": (
        draw([0, 1, 2]),
        per_class("{name}/{stem}.png", {"car": 1, "sky": 2}),
        {"labels": "masks/car/{stem}.png"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_remedy_makes_the_labels_the_true_ones(tmp_path, capsys, case):
    truth, store, content = CASES[case]
    path = write(tmp_path, truth, store, **content)
    status, findings = check(capsys, path)
    assert status == 1, findings
    ((meaning, keys),) = options_of(findings)
    assert meaning == ""
    apply(path, keys)
    status, findings = check(capsys, path)
    assert (status, findings) == (0, []), findings
    found = labels_of(path)
    assert found.keys() == truth.keys()
    assert all((found[stem] == truth[stem]).all() for stem in truth)


AMBIGUOUS = {
    "a value left out": (
        [0, 2, 3],
        NAMES,
        [("0 is unlabeled and 1 is 'road'", {0: VOID, 2: 1, 3: 2}), ("0 is 'road'", {0: 0, 2: 1, 3: 2})],
    ),
    "three values for two classes": (
        [0, 128, 255],
        TWO,
        [
            ("128 is 'crack'", {0: 0, 128: 1, 255: VOID}),
            ("255 is 'crack' and 128 void", {0: 0, 128: VOID, 255: 1}),
        ],
    ),
    "128 and 255": (
        [128, 255],
        TWO,
        [("255 is 'crack'", {128: 0, 255: 1}), ("255 is 'background'", {255: 0, 128: 1})],
    ),
    "255 for the background": (
        [1, 2, 255],
        ("background", "crack", "stain"),
        [("255 is 'background'", {255: 0, 1: 1, 2: 2})],
    ),
    "values that may count from 1": ([1, 2], NAMES, [("1 is 'road'", {1: 0, 2: 1})]),
    "1 and 255": ([1, 255], TWO, [("255 is 'background'", {255: 0, 1: 1})]),
    "values in no pattern": (
        [3, 17, 20],
        NAMES,
        [("the values are the classes in this order", {3: 0, 17: 1, 20: 2})],
    ),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_where_files_do_not_tell_each_option_says_what_has_to_be_true(tmp_path, capsys, case):
    values, classes, meanings = AMBIGUOUS[case]
    stored = draw(values)
    if case == "255 for the background":  # most of the pixels, as a background is
        stored = {stem: np.where(np.arange(HEIGHT)[:, None] < 20, 255, one) for stem, one in stored.items()}
    path = write(tmp_path, stored, lambda one, file: Image.fromarray(one.astype(np.uint8)).save(file))
    content = yaml.safe_load(path.read_text()) | {"classes": list(classes)}
    write_dataset_yaml(tmp_path, content)
    _, findings = check(capsys, path)
    options = options_of(findings)
    assert [meaning for meaning, _ in options] == [meaning for meaning, _ in meanings]
    for (_, keys), (_, table) in zip(options, meanings, strict=True):
        write_dataset_yaml(tmp_path, content | keys)
        status, _ = check(capsys, path)
        assert status == 0
        found = labels_of(path)
        for stem, one in stored.items():
            expected = np.vectorize(table.get)(one)
            assert (found[stem] == expected).all()


@pytest.mark.parametrize(
    ("values", "classes"),
    [([0, 1, 2], NAMES), ([0, 1, 2, 255], NAMES), ([0, 1], NAMES), ([0, 1], TWO)],
)
def test_good_labels_need_no_remedy(tmp_path, capsys, values, classes):
    path = write(tmp_path, draw(values), in_values({value: value for value in values}), classes=classes)
    status, findings = check(capsys, path)
    assert status == 0
    assert not any(finding["options"] for finding in findings)


def smoothed(labels, path):
    """An RGB mask that was made smaller and larger again, with a palette."""
    image = Image.fromarray(np.array(COLORS, np.uint8)[labels]).resize((WIDTH // 2, HEIGHT // 2))
    image.resize((WIDTH, HEIGHT), Image.BILINEAR).quantize(32).save(path)


def noisy(labels, path):
    noise = np.random.default_rng(0).integers(-3, 4, (HEIGHT, WIDTH, 3))
    colors = np.array(COLORS)[labels] + noise
    Image.fromarray(np.clip(colors, 0, 255).astype(np.uint8)).save(path)


@pytest.mark.parametrize(
    ("store", "keys", "remedy"),
    [
        (smoothed, {}, "palettes differ from file to file"),
        (noisy, {"classes": COLORED, "encoding": "rgb"}, "this many colors come from smoothing or lossy"),
        (in_colors(BY_COLOR), {}, "give each class in roads.yaml its color, one of [70, 130, 180], "),
        (in_values({0: 1, 1: 2}), {"classes": TWO, "encoding": "binary"}, "set encoding: {type: index, off"),
    ],
)
def test_where_keys_alone_do_not_help_the_text_says_what_to_do(tmp_path, capsys, store, keys, remedy):
    labels = draw([0, 1]) if keys.get("encoding") == "binary" else draw([0, 1, 2])
    labels = {stem: np.where(np.arange(WIDTH) < 20, one.max(), one) for stem, one in labels.items()}
    status, findings = check(capsys, write(tmp_path, labels, store, **keys))
    (finding,) = [one for one in findings if one["is_problem"]]
    assert status == 1
    assert finding["remedy"].startswith(remedy)


def test_palettes_that_differ_without_colors_in_the_yaml_are_a_problem(tmp_path, capsys):
    path = write(tmp_path, draw([0, 1, 2]), palette_in_turn)
    status, findings = check(capsys, path)
    (finding,) = [one for one in findings if one["is_problem"]]
    assert status == 1
    assert "palettes differ from file to file" in finding["text"]
    assert "give each class its color in roads.yaml and set encoding: rgb" in finding["remedy"]


def test_random_palettes_for_viewing_are_not_a_problem(tmp_path, capsys):
    def store(labels, file):
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(np.random.default_rng(int(file.stem)).integers(0, 256, (256, 3), np.uint8).tobytes())
        image.save(file)

    assert check(capsys, write(tmp_path, draw([0, 1, 2]), store, classes=COLORED)) == (0, [])


def test_real_masks_that_lost_their_indices_are_repaired_by_the_remedy(sample_data, tmp_path, capsys):
    source = sample_data / "voc_sample"
    truth = {}
    for file in sorted((source / "SegmentationClass").glob("*.png")):
        image = Image.open(file)
        truth[file.stem] = np.array(image)
        (tmp_path / "masks").mkdir(exist_ok=True)
        image.convert("RGB").quantize(16).save(tmp_path / "masks" / file.name)
    content = {
        "splits": {"x_train": "x"},
        "images": str(source / "JPEGImages") + "/{stem}.jpg",
        "labels": "masks/{stem}.png",
        "classes": "voc_2012",
    }
    # Folders outside of the YAML's are reached by a link.
    (tmp_path / "images").symlink_to(source / "JPEGImages")
    path = write_dataset_yaml(tmp_path, content | {"images": "images/{stem}.jpg"})
    status, findings = check(capsys, path)
    assert status == 1
    ((_, keys),) = options_of(findings)
    apply(path, keys)
    assert check(capsys, path)[0] == 0
    found = labels_of(path)
    assert all((found[stem] == truth[stem]).all() for stem in truth)


def test_real_masks_as_published_are_no_problem(sample_data, tmp_path, capsys):
    source = sample_data / "voc_sample"
    (tmp_path / "images").symlink_to(source / "JPEGImages")
    (tmp_path / "masks").symlink_to(source / "SegmentationClass")
    content = {
        "splits": {"x_train": "x"},
        "images": "images/{stem}.jpg",
        "labels": "masks/{stem}.png",
        "classes": "voc_2012",
    }
    assert check(capsys, write_dataset_yaml(tmp_path, content))[0] == 0


BOXES = {1: (4, 3, 16, 15), 2: (18, 6, 28, 20)}


def write_pets(folder, change=lambda annotation: None, classes=("cat", "dog"), images=2):
    """Two instances an image; {class: mask} as pycocotools draws it, and the YAML."""
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    for number in range(1, images + 1):
        save(folder / f"images/{number}.png", random_image(HEIGHT, WIDTH, number))
        content["images"].append(
            {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH}
        )
        for category, (left, top, right, bottom) in BOXES.items():
            polygon = [left, top, right, top, right, bottom, left, bottom]
            one = {"id": 10 * number + category, "image_id": number, "category_id": category, "iscrowd": 0}
            content["annotations"].append({**one, "segmentation": [[float(side) for side in polygon]]})
            change(content["annotations"][-1])
    (folder / "instances.json").write_text(json.dumps(content))
    keys = {"splits": {"x_train": "x"}, "images": "images", "instances": "instances.json"}
    return write_dataset_yaml(folder, {**keys, "classes": list(classes)})


def true_pets():
    truth = np.full((HEIGHT, WIDTH), VOID)
    for category, (left, top, right, bottom) in BOXES.items():
        polygon = [[float(side) for side in (left, top, right, top, right, bottom, left, bottom)]]
        code = mask_tools.merge(mask_tools.frPyObjects(polygon, HEIGHT, WIDTH))
        truth[mask_tools.decode(code) == 1] = category - 1
    return truth


def as_crowd(annotation):
    annotation["iscrowd"] = 1


def as_relative(annotation):
    (polygon,) = annotation["segmentation"]
    annotation["segmentation"] = [[value / (WIDTH, HEIGHT)[index % 2] for index, value in enumerate(polygon)]]


@pytest.mark.parametrize("change", [as_crowd, as_relative])
def test_the_remedy_makes_instances_the_true_ones(tmp_path, capsys, change):
    path = write_pets(tmp_path, change)
    status, findings = check(capsys, path)
    assert status == 1
    ((_, keys),) = options_of(findings)
    apply(path, keys)
    assert check(capsys, path) == (0, [])
    reader = label_reader("x_train")
    for record in DatasetCatalog.get("x_train"):
        index_map = reader.load_index_map(record)
        assert index_map.segments.is_crowd.tolist() == [False, False]
        assert np.count_nonzero(reader.class_map(index_map) != true_pets()) <= 2


def test_a_class_of_crowds_only_is_named(tmp_path, capsys):
    def change(annotation):
        annotation["iscrowd"] = int(annotation["category_id"] == 2)

    status, findings = check(capsys, write_pets(tmp_path, change))
    (finding,) = [one for one in findings if one["is_problem"]]
    assert status == 1
    assert finding["text"].startswith("all instances of 'dog' are crowds")
    assert options_of([finding]) == [("", {"crowd": "instances"})]


def moved(by):
    def change(annotation):
        annotation["segmentation"] = [[value * by for value in annotation["segmentation"][0]]]

    return change


@pytest.mark.parametrize(
    ("change", "images", "text"),
    [
        (
            moved(1.5),
            2,
            "2 of 4 instances reach beyond their image (first: annotation 12 of 1.png, x 27 to 42",
        ),
        (moved(10), 2, "4 of 4 instances reach beyond their image"),
        (moved(0.5), 12, "all 24 instances lie in the upper left quarter of their images"),
    ],
)
def test_coordinates_of_another_resolution_are_a_problem(tmp_path, capsys, change, images, text):
    status, findings = check(capsys, write_pets(tmp_path, change, images=images))
    assert status == 1
    assert any(finding["is_problem"] and finding["text"].startswith(text) for finding in findings), findings


@pytest.mark.parametrize("value", [0, 255])
def test_nothing_labeled_is_a_problem(tmp_path, capsys, value):
    content = {"encoding": {"type": "index", "offset": -1}} if value == 0 else {}
    truth = {stem: np.full((HEIGHT, WIDTH), VOID) for stem in ("00", "01")}
    status, findings = check(capsys, write(tmp_path, truth, in_values({VOID: value}), **content))
    (finding,) = [one for one in findings if one["is_problem"]]
    assert status == 1
    assert finding["text"] == "nothing is labeled: no class has a pixel, all is void"
    assert f"the files hold {value} only" in finding["remedy"]


def test_a_json_without_an_instance_is_a_problem(tmp_path, capsys):
    path = write_pets(tmp_path)
    content = json.loads((tmp_path / "instances.json").read_text())
    (tmp_path / "instances.json").write_text(json.dumps(content | {"annotations": []}))
    status, findings = check(capsys, path)
    assert status == 1
    assert any(one["text"].startswith("nothing is annotated: there is no instance") for one in findings)


def test_the_text_of_a_finding_has_the_keys_as_yaml(tmp_path, capsys):
    truth, store, content = CASES["steps from 10, 0 unlabeled"]
    path = write(tmp_path, truth, store, **content)
    assert check_data.main([str(path), "--workers", "0"]) == 1
    printed = capsys.readouterr().out
    expected = "set encoding: {type: index, values: {10: road, 20: car, 30: sky}, void: [0]} in roads.yaml"
    assert expected in printed
    text = expected.removeprefix("set ").removesuffix(" in roads.yaml")
    apply(path, yaml.safe_load(text))
    assert check(capsys, path) == (0, [])
