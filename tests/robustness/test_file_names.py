"""Names of files as other machines write them, in JSONs, lists and templates: found, or one line."""

import json
import logging
import shutil
import unicodedata

import numpy as np
import pytest
import yaml
from detectron2.data import DatasetCatalog

from segzoo.data import register_dataset_file
from segzoo.data.file_names import match_names
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from segzoo.utils.text_files import read_text
from tests.data.data_trees import (
    ROADS,
    STREET_IDS,
    load,
    random_image,
    save,
    write_roads,
    write_street,
    write_yaml,
)

LABELS = (np.arange(24).reshape(4, 6) % 5).astype(np.uint8)


def write_pets(folder, names, files):
    """A JSON of instances with these file names, beside these files below images/."""
    for file in files:
        save(folder / "images" / file, random_image(4, 6))
    content = {
        "images": [
            {"id": number, "file_name": name, "height": 4, "width": 6} for number, name in enumerate(names, 1)
        ],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "segmentation": [[0, 0, 5, 0, 5, 3]]}
            for number, _ in enumerate(names, 1)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (folder / "pets.json").write_text(json.dumps(content))
    pets = {"splits": {"pets_x": "x"}, "images": "images", "instances": "pets.json", "classes": ["cat"]}
    return write_yaml(folder, pets, "pets.yaml")


def warnings_about_names(caplog):
    return [message for message in caplog.messages if "by the ends of their paths" in message]


def found_files(folder, names, files):
    """Where the images of the JSON are, below images/."""
    records, _ = load(write_pets(folder, names, files))
    return [record["file_name"].removeprefix(f"{folder}/images/") for record in records]


@pytest.mark.parametrize(
    "name",
    [
        "images\\a 1+ü.png",
        "C:\\Users\\me\\data\\images\\a 1+ü.png",
        "c:/data/a 1+ü.png",
        "/home/other/pets/images/a 1+ü.png",
        "..\\..\\label-studio\\media\\upload\\4\\a 1+ü.png",
        "\\\\server\\share\\pets\\a 1+ü.png",
        "./images/./a 1+ü.png",
        "file:///d/a%201%2B%C3%BC.png",
        "https://host:8080/data/a%201%2B%C3%BC.png",
        "https://host/data/a+1%2B%C3%BC.png",
        "http://host/a%201%2B%C3%BC.png?signature=ab/c%2F=&x=1",
        "/data/local-files/?d=pets/images/a%201%2B%C3%BC.png",
        "a 1+Ü.PNG",
        unicodedata.normalize("NFD", "a 1+ü.png"),
    ],
)
def test_a_name_of_another_machine_is_found_by_the_end_of_its_path(tmp_path, caplog, name):
    with caplog.at_level(logging.WARNING):
        assert found_files(tmp_path, [name, "b.png"], ["a 1+ü.png", "b.png"]) == ["a 1+ü.png", "b.png"]
    (message,) = warnings_about_names(caplog)
    assert message.startswith(f"pets_x: 1 images were found in {tmp_path}/images by the ends of their paths")


def test_names_that_are_files_are_taken_as_they_are(tmp_path, caplog):
    """Though they look like something else, and others end like them."""
    names = ["a%20b.png", "a b.png", "c\\d.png", "d.png", "e?x=1.png", "sub/d.png"]
    assert found_files(tmp_path, names, names) == names
    assert not warnings_about_names(caplog)


def test_an_absolute_path_that_exists_is_taken(tmp_path):
    elsewhere = save(tmp_path / "elsewhere/a.png", random_image(4, 6))
    records, _ = load(write_pets(tmp_path, [str(elsewhere)], ["a.png"]))
    assert records[0]["file_name"] == str(elsewhere)


def test_the_longest_common_end_of_a_path_counts(tmp_path):
    files = ["day/a.png", "night/a.png", "night/b.png", "a.png"]
    names = ["D:\\set\\night\\a.png", "D:\\set\\day\\a.png", "b.png", "D:\\other\\a.png"]
    assert found_files(tmp_path, names, files) == ["night/a.png", "day/a.png", "night/b.png", "a.png"]


@pytest.mark.parametrize(
    ("names", "files", "message"),
    [
        (["x\\z.png"], ["a.png"], "1 of 1 images do not exist: {}/images/x\\z.png; no file in {}/images has"),
        (["z.png"], ["1/z.png", "2/z.png"], "'z.png' matches 1/z.png, 2/z.png in {}/images"),
        (["x\\z.png", "y\\z.png"], ["z.png"], "'x\\\\z.png' matches z.png in {}/images, but not uniquely"),
        # The file is another name's, which is there.
        (["z.png", "y\\z.png"], ["z.png"], "1 of 2 images do not exist: {}/images/y\\z.png; no file"),
        # Another folder is said, and another file.
        (["val/z.png"], ["train/z.png"], "1 of 1 images do not exist: {}/images/val/z.png; no file"),
    ],
)
def test_a_name_that_leaves_a_choice_or_has_no_file_is_one_line(tmp_path, names, files, message):
    with pytest.raises(InputError) as caught:
        found_files(tmp_path, names, files)
    assert message.replace("{}", str(tmp_path)) in str(caught.value)


@pytest.mark.parametrize("keys", [{"root": "../data"}, {"images": "../data/images"}])
def test_a_file_is_of_one_name_however_its_folder_is_written(tmp_path, keys):
    data = write_pets(tmp_path / "data", ["z.png", "y\\z.png"], ["z.png"])
    content = {**yaml.safe_load(data.read_text()), "instances": "../data/pets.json", **keys}
    with pytest.raises(InputError, match=r"1 of 2 images do not exist: .*y\\z\.png; no file"):
        load(write_yaml(tmp_path / "configs", content, "pets.yaml"))


@pytest.mark.parametrize("name", ["a", "../train/a", "images/train/a.png", "images/train/../train/a.png"])
def test_a_file_is_of_one_name_of_a_list(tmp_path, name):
    write_roads(tmp_path, LABELS)
    (tmp_path / "list.txt").write_text(f"{name}\ny\\a.png\n")
    with pytest.raises(InputError, match=r"1 of 2 listed images do not exist: .*y\\a\.png"):
        load(write_yaml(tmp_path, {**ROADS, "list": "list.txt"}))


def test_the_remedy_for_names_without_files_is_the_right_folder(tmp_path):
    file = write_pets(tmp_path, ["sub/z.png"], ["a.png"])
    save(tmp_path / "pictures/sub/z.png", random_image(4, 6))
    with pytest.raises(InputError, match=r"set images in pets.yaml to the folder that file_name is"):
        load(file)
    content = {**yaml.safe_load(file.read_text()), "images": "pictures"}
    assert len(load(write_yaml(tmp_path, content, "pets.yaml"))[0]) == 1


def test_names_of_panoptic_pngs_are_found_as_those_of_images(tmp_path):
    file = write_street(tmp_path)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    content["annotations"][0]["file_name"] = "E:\\panoptic\\a.png"
    content["images"][0]["file_name"] = "E:\\images\\a.jpg"
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    (record,), metadata = load(file)
    assert record["file_name"] == str(tmp_path / "images/a.jpg")
    assert np.array_equal(metadata.load_panoptic(record)[0], STREET_IDS)


def test_folders_are_searched_only_for_names_that_are_missing(tmp_path, monkeypatch):
    file = write_pets(tmp_path, ["a.png"], ["a.png", "b.png"])

    def walk(folder):
        raise AssertionError(f"{folder} was searched")

    monkeypatch.setattr("segzoo.data.file_names.os.walk", walk)
    load(file)


def test_the_name_with_the_longer_common_end_gets_the_file():
    matched = match_names(["x/1/a.png", "x/2/a.png"], ["/d/2/a.png"], "/d/2")
    assert matched.files == {"x/2/a.png": "/d/2/a.png"}


ENCODINGS = {
    "UTF-8": lambda text: text.encode(),
    "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16 of PowerShell": lambda text: text.encode("utf-16"),
    "UTF-16, big end first": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "Latin-1": lambda text: text.encode("latin-1"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_are_read_in_any_encoding(tmp_path, encoding, end):
    write_roads(tmp_path, LABELS)
    for stem in ("ä", "b c"):
        for folder in ("images", "masks"):
            shutil.copy(tmp_path / folder / "train/a.png", tmp_path / folder / f"train/{stem}.png")
    (tmp_path / "list.txt").write_bytes(ENCODINGS[encoding](end.join(["ä", "", "b c.png", "a"])))
    records, _ = load(write_yaml(tmp_path, {**ROADS, "list": "list.txt"}))
    assert [record["image_id"] for record in records] == ["ä", "b c", "a"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_dataset_and_configuration_files_are_read_in_any_encoding(tmp_path, encoding):
    content = yaml.safe_dump({**ROADS, "about": "Straße"}, allow_unicode=True)
    write_roads(tmp_path, LABELS)
    (tmp_path / "roads.yaml").write_bytes(ENCODINGS[encoding](content))
    assert len(load(tmp_path / "roads.yaml")[0]) == 1
    config = f"OUTPUT_DIR: {tmp_path}/läufe\n"
    (tmp_path / "config.yaml").write_bytes(ENCODINGS[encoding](config))
    assert f"{tmp_path}/läufe" == load_config(tmp_path / "config.yaml").OUTPUT_DIR


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_where_all_files_have_another_suffix_the_remedy_is_any_suffix(tmp_path, folder):
    file = write_roads(tmp_path, LABELS)
    (tmp_path / folder / "train/a.png").rename(tmp_path / folder / "train/a.PNG")
    key = "images" if folder == "images" else "labels"
    with pytest.raises(InputError, match=rf"\(but .*/{folder}/train/a.PNG: let {key} end in \.\* for any"):
        load(file)
    content = {**ROADS, key: f"{folder}/{{split}}/{{stem}}.*"}
    assert len(load(write_yaml(tmp_path, content))[0]) == 1


def test_a_binary_list_file_is_one_line(tmp_path):
    for content in (b"\xff\xfe\x00", b"\x00\x01", b"\x81\x8d\xff", b""):
        (tmp_path / "a.txt").write_bytes(content)
        read_text(tmp_path / "a.txt")
        write_roads(tmp_path, LABELS)
        with pytest.raises(InputError, match=r"roads_train: |a.txt: lists no images"):
            load(write_yaml(tmp_path, {**ROADS, "list": "a.txt"}))


@pytest.mark.parametrize(
    "line",
    [
        "a.png",
        '"a.png"',
        "images/train/a.png",
        "./images/train/a.png",
        "images\\train\\a.png",
        "train\\a",
        "{root}/images/train/a.png",
        "/home/other/roads/a.png",
        "a.PNG",
        "images/train/a.png masks/train/a.png",
        "/images/train/a.png /masks/train/a.png",
        "{root}/images/train/a.png {root}/masks/train/a.png",
        "{root}/images/train/a.png\t{root}/masks/train/a.png",
        "images/train/a.png,masks/train/a.png",
        '"{root}/images/train/a.png" "masks/train/a.png"',
        "C:\\roads\\images\\train\\a.png C:\\roads\\masks\\train\\a.png",
    ],
)
@pytest.mark.parametrize("images", ["images/{split}/{stem}.png", "images/{split}/{stem}.*"])
def test_a_line_of_a_list_is_read_however_it_names_the_image(tmp_path, line, images):
    write_roads(tmp_path, LABELS)
    (tmp_path / "list.txt").write_text(line.replace("{root}", str(tmp_path)) + "\n")
    (record,), _ = load(write_yaml(tmp_path, {**ROADS, "images": images, "list": "list.txt"}))
    assert record["file_name"] == str(tmp_path / "images/train/a.png")
    assert record["sem_seg_file_name"] == str(tmp_path / "masks/train/a.png")
    assert record["image_id"] == "a"


def test_quoted_paths_of_a_list_may_have_spaces(tmp_path):
    write_roads(tmp_path, LABELS)
    for folder in ("images", "masks"):
        (tmp_path / folder / "train/a.png").rename(tmp_path / folder / "train/it's a b.png")
    (tmp_path / "list.txt").write_text('"images/train/it\'s a b.png" "masks/train/it\'s a b.png"\n')
    (record,), _ = load(write_yaml(tmp_path, {**ROADS, "list": "list.txt"}))
    assert record["sem_seg_file_name"] == str(tmp_path / "masks/train/it's a b.png")


def test_a_stem_within_a_name_is_found_for_the_labels_of_an_image(tmp_path):
    save(tmp_path / "images/x_rgb.png", random_image(4, 6))
    save(tmp_path / "masks/x_ids.png", LABELS)
    (tmp_path / "list.txt").write_text("D:\\images\\x_rgb.png\n")
    content = {
        **ROADS,
        "images": "images/{stem}_rgb.png",
        "labels": "masks/{stem}_ids.png",
        "list": "list.txt",
    }
    (record,), _ = load(write_yaml(tmp_path, content))
    assert record["sem_seg_file_name"] == str(tmp_path / "masks/x_ids.png")


def test_absolute_templates_are_not_relative_to_the_root(tmp_path):
    write_roads(tmp_path / "data", LABELS)
    save(tmp_path / "data/masks/train/b.png", LABELS)
    for key in ("images", "labels"):
        content = {**ROADS, key: f"{tmp_path}/data/{ROADS[key]}", "root": ["data", "."]}
        (record,), _ = load(write_yaml(tmp_path, content))
        assert record["file_name"] == str(tmp_path / "data/images/train/a.png")
        assert record["sem_seg_file_name"] == str(tmp_path / "data/masks/train/a.png")


@pytest.mark.parametrize(
    "template", ["images\\{split}\\{stem}.png", "C:\\data\\{stem}.png", "D:/x/{stem}.png"]
)
@pytest.mark.parametrize("key", ["images", "labels"])
def test_a_template_with_a_path_of_windows_is_one_line(tmp_path, template, key):
    with pytest.raises(InputError, match=rf"roads.yaml: {key} .* is a Windows path; write / between"):
        register_dataset_file(write_yaml(tmp_path, {**ROADS, key: template}))


def test_any_suffix_of_labels_is_that_of_the_one_file_that_fits(tmp_path):
    write_roads(tmp_path, LABELS)
    file = write_yaml(tmp_path, {**ROADS, "labels": "masks/{split}/{stem}.*"})
    save(tmp_path / "images/train/b.png", random_image(4, 6))
    save(tmp_path / "masks/train/b.tif", LABELS)
    (tmp_path / "masks/train/a.png").rename(tmp_path / "masks/train/a.PNG")
    records, metadata = load(file)
    assert [record["sem_seg_file_name"].rpartition("/")[2] for record in records] == ["a.PNG", "b.tif"]
    assert all(np.array_equal(metadata.load_sem_seg(record), LABELS) for record in records)
    save(tmp_path / "masks/train/b.png", LABELS)
    with pytest.raises(
        InputError, match=r"masks/train/b.png and .*b.tif are labels of the same image; keep one"
    ):
        load(file)
    (tmp_path / "masks/train/a.PNG").unlink()
    (tmp_path / "masks/train/b.png").unlink()
    with pytest.raises(InputError, match=r"1 image has no labels, first .*a.png \(expected .*masks/train/a"):
        load(file)


def test_the_value_of_a_split_is_the_text_that_is_written(tmp_path):
    save(tmp_path / "01/a.png", random_image(4, 6))
    save(tmp_path / "masks/a.png", LABELS)
    text = yaml.safe_dump(
        {**ROADS, "splits": None, "images": "{split}/{stem}.png", "labels": "masks/{stem}.png"}
    )
    for written in ("01", "'01'"):
        (tmp_path / "roads.yaml").write_text(text.replace("splits: null", f"splits: {{roads_a: {written}}}"))
        assert register_dataset_file(tmp_path / "roads.yaml") == ["roads_a"]
        assert len(DatasetCatalog.get("roads_a")) == 1


def test_images_of_another_suffix_are_noted_and_the_remedy_adds_them(tmp_path, tool):
    file = write_roads(tmp_path, LABELS)
    for folder, name in (("images", "b.PNG"), ("images", "c.jpg"), ("masks", "b.png"), ("masks", "c.png")):
        source = tmp_path / folder / "train/a.png"
        shutil.copy(source, tmp_path / folder / "train" / name)
    answer = tool("check-data", file, "--workers", 0)
    (line,) = [line for line in answer.out if "image files are not used" in line]
    assert "2 image files" in line
    assert "give images in roads.yaml the suffix .*" in line
    file = write_yaml(tmp_path, {**ROADS, "images": "images/{split}/{stem}.*"})
    assert len(load(file)[0]) == 3
    assert not [line for line in tool("check-data", file, "--workers", 0).out if "not used" in line]


@pytest.mark.parametrize("header", ["image,mask", "Image_Path, Label_Path", "filename\tannotation"])
def test_the_header_of_a_csv_is_not_an_image(tmp_path, header):
    file = write_roads(tmp_path, LABELS, list="train.csv")
    (tmp_path / "train.csv").write_text(f"{header}\nimages/train/a.png,masks/train/a.png\n")
    (record,), _ = load(file)
    assert record["file_name"] == str(tmp_path / "images/train/a.png")
    assert record["sem_seg_file_name"] == str(tmp_path / "masks/train/a.png")


@pytest.mark.parametrize("text", ["", "\n \n", "image,mask\n"])
def test_an_empty_list_is_one_line(tmp_path, text):
    file = write_roads(tmp_path, LABELS, list="train.csv")
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(InputError, match=r"train.csv: lists no images; write one per line, or remove"):
        load(file)
