"""Notes of `segzoo check-data` on labels that can be read, and the keys that it proposes."""

import json
import re

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as mask_tools

from segzoo.utils.errors import InputError
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
    notes_of,
    options_of,
    write,
    write_dataset_yaml,
)


def store_gray(labels, path):
    save(path, labels.astype(np.uint8))


def test_a_trimap_is_read_from_1_without_its_last_value(tmp_path, capsys):
    """Oxford's pets: 1 is the pet, 2 the background, 3 the edge between them."""
    truth = draw([0, 1, VOID])
    stored = {stem: np.where(one == VOID, 3, one + 1) for stem, one in truth.items()}
    path = write(tmp_path, stored, store_gray, classes=["pet", "background"])
    status, findings = check(capsys, path)
    assert status == 1
    ((meaning, keys),) = options_of(findings)
    assert meaning == "1 is 'pet' and 3 unlabeled"
    apply(path, keys)
    assert check(capsys, path)[0] == 0
    found = labels_of(path)
    assert all(np.array_equal(found[stem], one) for stem, one in truth.items())


@pytest.mark.parametrize("encoding", ["binary", "index"])
def test_masks_with_soft_edges_get_a_threshold(tmp_path, capsys, encoding):
    """Scaled with smoothing: the outline is where half of a pixel is inside."""
    truth = draw([0, 1])
    rng = np.random.default_rng(0)

    def store(labels, path):
        soft = np.where(labels, rng.integers(128, 256, labels.shape), rng.integers(0, 128, labels.shape))
        soft.flat[:2] = labels.flat[:2] * 255
        save(path, soft.astype(np.uint8))

    path = write(tmp_path, truth, store, classes=["ground", "car"], encoding=encoding)
    status, findings = check(capsys, path)
    assert status == 1
    ((meaning, keys),) = options_of(findings)
    assert meaning == "they are masks with soft edges"
    apply(path, keys)
    assert check(capsys, path)[0] == 0
    found = labels_of(path)
    assert all(np.array_equal(found[stem], one) for stem, one in truth.items())


@pytest.mark.parametrize("mode", ["LA", "L", "P"])
def test_transparent_pixels_of_labels_are_noted(tmp_path, capsys, mode):
    truth = draw([0, 1, 2])

    def store(labels, path):
        image = Image.fromarray(labels.astype(np.uint8))
        if mode == "LA":
            image.putalpha(Image.fromarray(np.where(labels == 0, 0, 255).astype(np.uint8)))
            image.save(path)
            return
        if mode == "P":
            image.putpalette([0, 0, 0, 10, 10, 10, 20, 20, 20])
        image.save(path, transparency=0)

    ((text, _),) = notes_of(capsys, write(tmp_path, truth, store), "transparent")
    share = np.mean([one == 0 for one in truth.values()])
    assert text.startswith(f"{share:.0%} of the pixels of label files are transparent")


def test_labels_that_several_images_share_are_noted_with_the_field_that_parts_them(tmp_path, capsys):
    truth = draw([0, 1, 2], images=2)
    path = write(tmp_path, truth, store_gray, images="cameras/{camera}/{stem}.png")
    for camera in "ab":
        for number, stem in enumerate(truth):
            save(
                tmp_path / f"cameras/{camera}/{stem}.png",
                random_image(HEIGHT, WIDTH, number + 10 * ord(camera)),
            )
    ((text, remedy),) = notes_of(capsys, path, "more than one image")
    assert text.startswith("2 label files are used for more than one image")
    assert remedy.endswith("write {camera} into labels of roads.yaml")
    for camera in "ab":
        for stem, one in truth.items():
            store_gray(one, (tmp_path / f"masks/{camera}").joinpath(f"{stem}.png"))
    apply(path, {"labels": "masks/{camera}/{stem}.png"})
    assert not notes_of(capsys, path, "more than one image")


@pytest.mark.parametrize("inner", ["inside", "beside", "overlapping"])
def test_polygons_within_others_are_noted_as_holes_that_are_filled(tmp_path, capsys, inner):
    left = {"inside": 8, "beside": 22, "overlapping": 14}[inner]
    parts = [[4, 4, 18, 4, 18, 18, 4, 18], [left, 8, left + 6, 8, left + 6, 14, left, 14]]
    code = mask_tools.merge(mask_tools.frPyObjects(parts, HEIGHT, WIDTH))
    instance = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": parts, "iscrowd": 0}
    instance |= {"area": float(mask_tools.area(code)), "bbox": mask_tools.toBbox(code).tolist()}
    save(tmp_path / "images/a.png", random_image(HEIGHT, WIDTH))
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": [instance],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "pets.json").write_text(json.dumps(content))
    pets = {"splits": {"x_train": "x"}, "images": "images", "instances": "pets.json", "classes": ["cat"]}
    notes = notes_of(capsys, write_dataset_yaml(tmp_path, pets), "holes")
    assert len(notes) == (inner == "inside")


def test_colors_with_red_and_blue_exchanged_are_told(tmp_path, capsys):
    """OpenCV writes arrays as BGR."""
    truth = draw([0, 1, 2])

    def store(labels, path):
        save(path, np.array(COLORS, np.uint8)[labels][:, :, ::-1])

    path = write(tmp_path, truth, store, classes=COLORED, encoding="rgb")
    status, findings = check(capsys, path)
    assert status == 1
    (finding,) = findings
    assert finding["remedy"].startswith("with red and blue exchanged these are colors of classes")
    listed = {name: [list(color[::-1])] for name, color in zip(NAMES, COLORS, strict=True)}
    apply(path, {"encoding": {"type": "rgb", "colors": listed}})
    assert check(capsys, path)[0] == 0
    found = labels_of(path)
    assert all(np.array_equal(found[stem], one) for stem, one in truth.items())


def test_an_image_that_is_listed_twice_is_noted_as_that(tmp_path, capsys):
    truth = draw([0, 1, 2], images=2)
    path = write(tmp_path, truth, store_gray, list="x.txt")
    (tmp_path / "x.txt").write_text("00\n01\n00\n")
    ((text, _),) = notes_of(capsys, path, "")
    assert text.startswith(f"1 image is listed more than once, first {tmp_path}/images/00.png")


def soft_mask_of_car(labels, path):
    outside = np.arange(labels.size).reshape(labels.shape) % 90
    save(path.with_name(f"{path.stem}-car.png"), np.where(labels, 200, outside).astype(np.uint8))


def from_1_in_rgb(labels, path):
    save(path, np.repeat((labels + 1).astype(np.uint8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize(
    ("store", "labels", "encoding"),
    [
        (soft_mask_of_car, "masks/{stem}-{class}.png", {"type": "binary_files", "rest": "road"}),
        (from_1_in_rgb, "masks/{stem}.png", {"type": "index", "offset": -1}),
    ],
)
def test_the_remedy_of_an_error_keeps_the_other_options(tmp_path, capsys, store, labels, encoding):
    truth = draw([0, 1], images=1)
    path = write(tmp_path, truth, store, labels=labels, encoding=encoding)
    assert check(capsys, path)[0] == 1
    with pytest.raises(InputError) as error:
        labels_of(path)
    apply(path, yaml.safe_load(re.search(r"set (encoding: {.*})", str(error.value))[1]))
    assert check(capsys, path)[0] == 0
    assert np.array_equal(labels_of(path)["00"], truth["00"])
