"""One binary mask per class and image becomes one label map, whatever the masks hold and are called."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from segzoo.data import label_reader, read_dataset_file, register_dataset_file
from segzoo.utils.errors import InputError
from tests.data.data_trees import random_image, save, write_yaml

HEIGHT, WIDTH = 12, 16
BASE = {
    "splits": {"roads_x": "x"},
    "images": "images/{stem}.png",
    "labels": "masks/{stem}-{class}.png",
    "classes": ["road", "car", "sky"],
}


def random_labels(classes=3, seed=0):
    return np.random.default_rng(seed).integers(0, classes, (HEIGHT, WIDTH)).astype(np.uint8)


def write_masks(folder, stem, masks, template="masks/{stem}-{name}.png"):
    """An image, and a file for each of {name: (H, W) array of any type}."""
    save(folder / f"images/{stem}.png", random_image(HEIGHT, WIDTH))
    for name, mask in masks.items():
        save(folder / template.format(stem=stem, name=name), np.asarray(mask))


def read(folder, **keys):
    """{image id: labels} of the split."""
    register_dataset_file(write_yaml(folder, {**BASE, **keys}))
    reader = label_reader("roads_x")
    return {record["image_id"]: reader.load_sem_seg(record) for record in DatasetCatalog.get("roads_x")}


def rest_is(name):
    return {"type": "binary_files", "rest": name}


@pytest.mark.parametrize("foreground", [1, 7, 255])
def test_any_value_but_0_is_inside_and_the_rest_is_what_the_key_says(tmp_path, foreground):
    labels = random_labels()
    write_masks(
        tmp_path,
        "00",
        {"car": (labels == 1) * np.uint8(foreground), "sky": (labels == 2) * np.uint8(foreground)},
    )
    assert (read(tmp_path, encoding=rest_is("road"))["00"] == labels).all()
    # Without a word on it, what no mask covers is void.
    assert (read(tmp_path)["00"] == np.where(labels == 0, 255, labels)).all()


def test_a_folder_per_class_is_found_and_a_missing_file_means_absent(tmp_path):
    first, second = random_labels(), random_labels(2, seed=1)
    for stem, labels in (("00", first), ("01", second)):
        masks = {name: (labels == index) * np.uint8(255) for index, name in ((1, "car"), (2, "sky"))}
        masks = {name: mask for name, mask in masks.items() if mask.any()}
        write_masks(tmp_path, stem, masks, "masks/{name}/{stem}.png")
    assert not (tmp_path / "masks/sky/01.png").exists()
    found = read(tmp_path, labels="masks/{class}/{stem}.png", encoding=rest_is("road"))
    assert (found["00"] == first).all()
    assert (found["01"] == second).all()


def test_several_files_of_a_class_are_joined_as_label_studio_exports_them(tmp_path):
    labels = random_labels()
    upper = np.arange(HEIGHT)[:, None] < HEIGHT // 2
    masks = {
        "car-0": (labels == 1) & upper,
        "car-1": (labels == 1) & ~upper,
        "sky-0": labels == 2,
    }
    template = "masks/task-{stem}-annotation-2-by-1-tag-{name}.png"
    write_masks(tmp_path, "1", {name: mask * np.uint8(255) for name, mask in masks.items()}, template)
    pattern = "masks/task-{stem}-annotation-*-by-*-tag-{class}-*.png"
    assert (read(tmp_path, labels=pattern, encoding=rest_is("road"))["1"] == labels).all()


def test_names_may_differ_in_case_and_separators_and_contain_the_separator_of_the_template(tmp_path):
    labels = random_labels()
    for stem in ("a", "a-traffic"):
        write_masks(tmp_path, stem, {"Traffic-Light": labels == 1, "SKY": labels == 2})
    classes = ["road", "traffic light", "sky"]
    found = read(tmp_path, classes=classes, encoding=rest_is("road"))
    assert set(found) == {"a", "a-traffic"}
    assert all((one == labels).all() for one in found.values())


def test_label_map_names_the_files_of_a_class_and_void(tmp_path):
    labels = random_labels(4)
    write_masks(tmp_path, "00", {"auto": labels == 1, "sky": labels == 2, "blur": labels == 3})
    found = read(tmp_path, label_map={"auto": "car", "blur": "void"}, encoding=rest_is("road"))
    assert (found["00"] == np.where(labels == 3, 255, labels)).all()


def test_where_masks_overlap_the_later_class_or_that_of_the_key_order_is_on_top(tmp_path):
    car, sky = (np.random.default_rng(seed).random((HEIGHT, WIDTH)) < 0.5 for seed in (1, 2))
    write_masks(tmp_path, "00", {"car": car, "sky": sky})
    assert (car & sky).any()
    found = read(tmp_path, encoding=rest_is("road"))["00"]
    assert (found == np.where(sky, 2, np.where(car, 1, 0))).all()
    found = read(tmp_path, encoding={**rest_is("road"), "order": ["sky", "car"]})["00"]
    assert (found == np.where(car, 1, np.where(sky, 2, 0))).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16", "P"])
def test_masks_of_every_mode_are_read(tmp_path, mode):
    labels = random_labels(2)
    write_masks(tmp_path, "00", {"car": labels * np.uint8(255)})
    gray = Image.fromarray(labels * np.uint8(255))
    if mode == "P":
        image = Image.fromarray(labels)
        image.putpalette([0, 0, 0, 255, 255, 255])
    else:
        image = Image.fromarray(labels.astype(np.uint16)) if mode == "I;16" else gray.convert(mode)
    image.save(tmp_path / "masks/00-car.png")
    assert Image.open(tmp_path / "masks/00-car.png").mode == mode
    assert (read(tmp_path, encoding=rest_is("road"))["00"] == labels).all()


def test_soft_edges_need_a_threshold_and_the_message_gives_one(tmp_path):
    soft = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
    soft[0, 0] = 255
    write_masks(tmp_path, "00", {"car": soft})
    with pytest.raises(InputError, match=r"00-car.png: has the values .*threshold: 128}"):
        read(tmp_path, encoding=rest_is("road"))
    found = read(tmp_path, encoding={**rest_is("road"), "threshold": 128})["00"]
    assert (found == (soft >= 128)).all()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            {"dog": np.ones((HEIGHT, WIDTH), np.uint8)},
            r"00-dog.png: 'dog' is neither a class nor in label_map",
        ),
        (
            {"car": random_image(HEIGHT, WIDTH)},
            r"00-car.png: is a color image \(RGB\), expected the mask of one",
        ),
        ({"car": np.ones((3, 4), np.uint8)}, r"00-car.png: is 4x3, but its image"),
    ],
)
def test_wrong_files_are_named(tmp_path, masks, message):
    write_masks(tmp_path, "00", {"sky": np.ones((HEIGHT, WIDTH), np.uint8), **masks})
    size = {"height": HEIGHT, "width": WIDTH}
    register_dataset_file(write_yaml(tmp_path, BASE))
    with pytest.raises(InputError, match=message):
        [label_reader("roads_x").load_sem_seg(record | size) for record in DatasetCatalog.get("roads_x")]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"encoding": "index"}, "labels with {class} are a mask per class; set encoding: binary_files"),
        ({"labels": "masks/{stem}.png", "encoding": "binary_files"}, "name the class in labels"),
        ({"encoding": rest_is("raod")}, "'raod' is not a class; did you mean road?"),
        ({"encoding": {"type": "binary_files", "order": ["car"]}}, "order lacks road, sky"),
        ({"encoding": ["binary_files", "index"]}, "binary_files cannot be combined with another"),
        ({"encoding": {"type": "binary_files", "threshold": "x"}}, "threshold is 'x'; expected a number"),
    ],
)
def test_contradicting_keys_are_refused(tmp_path, keys, message):
    with pytest.raises(InputError, match=message):
        read_dataset_file(write_yaml(tmp_path, {**BASE, **keys}))


def test_files_of_several_objects_belong_to_the_image_with_the_longest_fitting_stem(tmp_path):
    """`{stem}-*` fits a-b-car-0.png with the stems a-b-car, a-b and a; an image is called a-b."""
    values = {"a-car-0": 1, "a-car-1": 2, "a-b-car-0": 2, "a-b-c": 1}
    for stem in ("a", "a-b"):
        write_masks(tmp_path, stem, {})
    for column, (name, value) in enumerate(values.items()):
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[:, column] = value
        save(tmp_path / f"masks/{name}.png", labels)
    found = read(tmp_path, labels="masks/{stem}-*.png")
    assert found["a"][0].tolist()[:5] == [1, 2, 0, 0, 0]
    assert found["a-b"][0].tolist()[:5] == [0, 0, 2, 1, 0]


def test_names_with_underscores_get_the_template_that_fits_them(tmp_path):
    labels = random_labels()
    write_masks(tmp_path, "00", {"car_0": labels}, "masks/{stem}_{name}.png")
    with pytest.raises(
        InputError, match=r"a \* stands for a text without _, so set labels: (\S+)\)"
    ) as error:
        read(tmp_path, labels="masks/{stem}_*.png")
    template = str(error.value).partition("set labels: ")[2].partition(")")[0]
    assert (read(tmp_path, labels=template)["00"] == labels).all()
