"""`segzoo check-data` finds problems of a copy, names files and remedies, and counts correctly."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzoo.cli import check_data
from tests.data.data_trees import ROADS, STREET_IDS, random_image, save, write_street, write_yaml


@pytest.fixture
def tool():
    return check_data


@pytest.fixture
def run(tool, capsys):
    """Run the command; return its exit status, and the report as JSON."""

    def check(*arguments):
        status = tool.main([*map(str, arguments), "--json", "--workers", "0"])
        return status, json.loads(capsys.readouterr().out)

    return check


def write_labels(folder, labels, split="train", seed=0):
    """Write images and labels from {stem: labels}, with different pixels in each image."""
    for number, (stem, values) in enumerate(labels.items()):
        values = np.asarray(values, dtype=np.uint8)
        save(folder / f"images/{split}/{stem}.png", random_image(*values.shape, seed + number))
        save(folder / f"masks/{split}/{stem}.png", values)


def problems(report):
    return [finding for finding in report["findings"] if finding["is_problem"]]


GOOD = {"a": [[0, 1, 2]], "b": [[3, 4, 255]], "c": [[0, 0, 3]]}


def test_a_good_copy_passes_and_is_counted(tmp_path, run):
    write_labels(tmp_path, GOOD)
    status, report = run(write_yaml(tmp_path, {**ROADS, "image_counts": {"roads_train": 3}}))
    assert status == 0
    assert report["problems"] == 0
    assert report["findings"] == []
    split = report["splits"]["roads_train"]
    assert (split["images"], split["published_images"], split["label_files"]) == (3, 3, 3)
    assert split["sizes"] == {"3x1": 3}
    assert split["void_pixels"] == 1
    assert [(one["name"], one["pixels"], one["images"]) for one in split["classes"]] == [
        ("road", 3, 2),
        ("building", 1, 1),
        ("sky", 1, 1),
        ("car", 2, 2),
        ("person", 1, 1),
    ]


def test_the_counts_of_real_labels_are_those_of_their_pixels(sample_data, monkeypatch, run):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(sample_data))
    status, report = run("camvid_val")
    stored = [np.array(Image.open(file)) for file in sorted((sample_data / "camvid/val_labels").iterdir())]
    split = report["splits"]["camvid_val"]
    assert status == 0
    pixels = np.bincount(np.concatenate(stored, axis=None), minlength=12)
    assert [*(one["pixels"] for one in split["classes"]), split["void_pixels"]] == pixels.tolist()
    assert [one["images"] for one in split["classes"]] == [
        sum((labels == index).any() for labels in stored) for index in range(11)
    ]
    assert split["sizes"] == {"480x360": 101}


def test_processes_do_not_change_the_report(tmp_path, tool, capsys):
    write_labels(tmp_path, {f"{number:02d}": [[0, number % 7]] for number in range(20)})
    file = str(write_yaml(tmp_path, ROADS))
    reports = []
    for workers in ("0", "2"):
        assert tool.main([file, "--json", "--workers", workers]) == 1
        reports.append(capsys.readouterr().out)
    assert reports[0] == reports[1]
    assert len(problems(json.loads(reports[0]))[0]["files"]) == sum(number % 7 > 4 for number in range(20))


def test_every_kind_of_damage_is_found_with_its_files_and_a_remedy(tmp_path, run):
    damaged = {
        **GOOD,
        "unknown1": [[0, 7, 9]],
        "unknown2": [[0, 7, 1]],
        "void": [[255, 255]],
        "size": [[0, 1]],
        "image": [[0]],
        "label": [[0]],
        "color": [[0]],
    }
    write_labels(tmp_path, damaged)
    save(tmp_path / "masks/train/size.png", np.zeros((5, 4), np.uint8))
    file = tmp_path / "images/train/image.png"
    file.write_bytes(file.read_bytes()[:40])
    (tmp_path / "masks/train/label.png").write_text("<html>404</html>")
    save(tmp_path / "masks/train/color.png", np.array([[[1, 2, 3]]], np.uint8))
    save(tmp_path / "masks/train/lone.png", np.zeros((1, 1), np.uint8))
    status, report = run(write_yaml(tmp_path, {**ROADS, "image_counts": {"roads_train": 12}}))
    assert status == 1
    found = {finding["text"]: finding for finding in problems(report)}
    assert set(found) == {
        "10 images, but 12 were published",
        "2 images: labels that are no class (7 in 2, 9 in 1 files)",
        "1 image: size of image and labels differs",
        "1 image: unreadable image",
        "1 image: unreadable label file",
        "1 image: wrong label file",
    }
    assert all(finding["remedy"] for finding in found.values())
    for text, name in (
        (
            "2 images: labels that are no class (7 in 2, 9 in 1 files)",
            "masks/train/unknown1.png: labels 7, 9",
        ),
        ("1 image: size of image and labels differs", "masks/train/size.png: is 4x5, but its image"),
        ("1 image: unreadable image", "images/train/image.png: cannot be read as an image"),
        ("1 image: unreadable label file", "masks/train/label.png: cannot be read as an image"),
        ("1 image: wrong label file", "masks/train/color.png: is a color image"),
    ):
        assert name in found[text]["files"][0]
    notes = [finding for finding in report["findings"] if not finding["is_problem"]]
    assert [note["text"] for note in notes] == [
        f"1 label file belongs to no image of the split, first {tmp_path}/masks/train/lone.png",
        "1 image: nothing labeled",
    ]
    assert "images/train/void.png" in notes[1]["files"][0]


def test_damage_does_not_hide_the_counts_of_the_rest(tmp_path, run):
    write_labels(tmp_path, {**GOOD, "bad": [[0, 9, 9]]})
    _, report = run(write_yaml(tmp_path, ROADS))
    assert sum(one["pixels"] for one in report["splits"]["roads_train"]["classes"]) == 8


def test_masks_of_0_and_255_name_the_remedy(tmp_path, run):
    write_labels(tmp_path, {stem: [[0, 255]] for stem in "ab"})
    three = {**ROADS, "classes": ["ground", "crack", "stain"]}
    status, report = run(write_yaml(tmp_path, three))
    (problem,) = problems(report)
    assert status == 1
    assert problem["text"] == (
        "no class but 'ground' occurs, the rest is void: are these masks of 0 and 255?"
    )
    # The files do not show which of the two it is.
    assert "if 255 is one of the other classes, say which in roads.yaml: label_map: {255" in problem["remedy"]
    # With two classes the reader itself refuses each file.
    status, report = run(write_yaml(tmp_path, {**three, "classes": ["ground", "crack"]}))
    assert status == 1
    assert "a.png: holds only {0, 255}; 255 is the ignore label" in problems(report)[0]["files"][0]
    assert problems(report)[0]["remedy"] == "set encoding: binary in roads.yaml"
    status, report = run(write_yaml(tmp_path, {**three, "label_map": {255: "crack"}}))
    assert status == 0
    assert [one["pixels"] for one in report["splits"]["roads_train"]["classes"]] == [2, 2, 0]


TWO = {**ROADS, "splits": {"roads_train": "train", "roads_val": "val"}}


def test_an_image_of_training_in_validation_is_found_by_name_and_by_content(tmp_path, run):
    write_labels(tmp_path, GOOD)
    # Equal names with different pixels, as in datasets that number each split from 1.
    write_labels(tmp_path, GOOD, "val", seed=50)
    file = write_yaml(tmp_path, TWO)
    assert run(file) == (0, {**run(file)[1], "findings": []})
    source = (tmp_path / "images/train/b.png").read_bytes()
    (tmp_path / "images/val/b.png").write_bytes(source)
    (tmp_path / "images/val/c.png").write_bytes(source)
    status, report = run(file)
    (problem,) = problems(report)
    assert status == 1
    assert problem["text"].startswith("2 images are in both roads_train and roads_val, first ")
    assert [Path(pair.split(" = ")[1]).name for pair in problem["files"]] == ["b.png", "c.png"]
    assert all(Path(pair.split(" = ")[0]).name == "b.png" for pair in problem["files"])
    notes = [finding["text"] for finding in report["findings"] if not finding["is_problem"]]
    assert notes == ["1 image is a copy of another in the split, first c.png of b.png"]


def test_large_sets_are_hashed_on_request_only(tmp_path, tool, run, monkeypatch):
    monkeypatch.setattr("segzoo.cli.check_data.check.HASHED_BY_DEFAULT", 3)
    write_labels(tmp_path, GOOD)
    write_labels(tmp_path, {"z": [[0, 1, 2]]}, "val")  # the image of a, under another name
    file = write_yaml(tmp_path, TWO)
    assert run(file)[0] == 0
    assert run(file, "--hash")[0] == 1


def test_trainval_may_share_images_with_train_and_names_of_one_split_are_checked_once(tmp_path, run):
    write_labels(tmp_path, GOOD)
    splits = {
        "roads_train": "train",
        "roads_trainval": {"split": "train", "part": "all"},
        "roads_twice": "train",
    }
    status, report = run(write_yaml(tmp_path, {**ROADS, "splits": splits}))
    assert status == 0
    assert set(report["splits"]) == {"roads_train", "roads_trainval"}
    assert [finding["is_problem"] for finding in report["findings"]] == [False]


@pytest.mark.parametrize(("other", "meant"), [("roads_small_val", True), ("roads_small_val_train", False)])
def test_validation_sets_may_share_images_with_each_other_only(tmp_path, run, other, meant):
    write_labels(tmp_path, GOOD, "val")
    splits = {"roads_val": "val", other: {"split": "val", "part": "first"}}
    status, report = run(write_yaml(tmp_path, {**ROADS, "splits": splits}))
    assert [finding["is_problem"] for finding in report["findings"]] == [not meant]
    assert status == (0 if meant else 1)


def test_trainval_may_not_share_images_with_test(tmp_path, run):
    write_labels(tmp_path, GOOD)
    splits = {"roads_trainval": "train", "roads_test": {"split": "train", "part": "all"}}
    status, report = run(write_yaml(tmp_path, {**ROADS, "splits": splits}))
    assert status == 1
    assert "3 images are in both roads_test and roads_trainval" in problems(report)[0]["text"]


def test_a_missing_split_fails_unless_it_has_no_labels(tmp_path, run):
    write_labels(tmp_path, GOOD)
    content = {**ROADS, "splits": {"roads_train": "train", "roads_val": "val", "roads_test": "test"}}
    status, report = run(write_yaml(tmp_path, {**content, "without_labels": ["roads_test"]}))
    assert status == 1
    (problem,) = problems(report)
    assert problem["split"] == "roads_val"
    assert f"no images {tmp_path}/images/val/{{stem}}.png" in problem["text"]
    status, _ = run(tmp_path / "roads.yaml", "--split", "roads_train", "roads_test")
    assert status == 0


def test_images_without_labels_are_read(tmp_path, run):
    save(tmp_path / "images/test/a.png", random_image(4, 5))
    (tmp_path / "images/test/b.png").write_bytes(b"no image")
    content = {**ROADS, "splits": {"roads_test": "test"}, "without_labels": ["roads_test"]}
    status, report = run(write_yaml(tmp_path, content))
    assert status == 1
    assert [one["text"] for one in report["findings"]] == ["1 image: unreadable image"]
    assert report["splits"]["roads_test"]["sizes"] == {"5x4": 1}
    assert report["splits"]["roads_test"]["classes"] == []


def test_panoptic_segments_are_counted_and_their_damage_is_found(tmp_path, run):
    file = write_street(tmp_path)
    status, report = run(file)
    assert status == 0
    classes = report["splits"]["street_train"]["classes"]
    areas = {"road": [12], "car": [500, 7], "sky": [70000], "person": [66051, 300]}
    assert {one["name"]: one["pixels"] for one in classes} == {
        name: int(np.isin(STREET_IDS, ids).sum()) for name, ids in areas.items()
    }
    assert {one["name"]: one["segments"] for one in classes} == {
        name: len(ids) for name, ids in areas.items()
    }
    content = json.loads((tmp_path / "panoptic.json").read_text())
    del content["annotations"][0]["segments_info"][0]
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    status, report = run(file)
    assert status == 1
    assert "segment ids 70000 are not in the segments_info" in problems(report)[0]["files"][0]
    content["images"][0]["height"] = 77
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    assert "a.jpg: is 6x4, but its annotation says 6x77" in problems(run(file)[1])[0]["files"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["camvit"], "dataset file camvit does not exist; did you mean camvid?"),
        (
            ["camvid", "--split", "camvid_vall"],
            "--split camvid_vall: camvid.yaml has camvid_train, camvid_val",
        ),
        (["camvid_val", "--split", "camvid_val"], "--split camvid_val: camvid_val is a split itself"),
        (["camvid", "--number", "0"], "--number: 0: expected at least 1"),
        (["camvid", "--workers", "-1"], "--workers: -1: expected at least 0"),
        ([], "the dataset is missing; give a dataset YAML"),
        (["coco_2017_train"], "'coco_2017_train' is not registered from a dataset YAML"),
    ],
)
def test_a_wrong_command_exits_with_2_and_one_line(tool, capsys, arguments, message):
    try:
        status = tool.main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_the_text_shows_the_layout_the_counts_the_classes_and_the_remedies(tmp_path, tool, capsys):
    write_labels(tmp_path, {"a": [[0, 1]], "b": [[0, 9]]})
    assert tool.main([str(write_yaml(tmp_path, ROADS)), "--workers", "0"]) == 1
    text = capsys.readouterr().out
    for part in (
        f"layout   1 of 1 in roads.yaml, in {tmp_path}",
        "labels   masks/{split}/{stem}.png, encoding index",
        "found    2 images, 2 label files",
        "sizes    2x1 (2)",
        "absent: sky, car, person",
        "PROBLEM  1 image: labels that are no class (9 in 1 files); give each a class with label_map",
        f"{tmp_path}/masks/train/b.png: label 9 is outside [0, 5)",
        "roads.yaml: 1 problem, see above",
    ):
        assert part in text
    assert "50.00 %" in text
    assert max(map(len, text.split("PROBLEM")[0].splitlines())) <= max(110, len(str(tmp_path)) + 50)


def test_the_figure_shows_each_image_in_the_colors_of_its_legend(tmp_path, tool, capsys):
    colors = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    classes = [{"name": f"class {index}", "color": list(color)} for index, color in enumerate(colors)]
    for stem, values in {"a": [[0, 1]], "b": [[255, 0]]}.items():
        labels = np.kron(np.array(values, dtype=np.uint8), np.ones((60, 60), dtype=np.uint8))
        save(tmp_path / f"images/train/{stem}.png", np.full((*labels.shape, 3), 128, np.uint8))
        save(tmp_path / f"masks/train/{stem}.png", labels)
    file = write_yaml(tmp_path, {**ROADS, "classes": classes})
    assert tool.main([str(file), "--workers", "0", "--output", str(tmp_path / "out")]) == 0
    assert f"examples in {tmp_path}/out/roads_train.png" in capsys.readouterr().out
    drawn = np.array(Image.open(tmp_path / "out/roads_train.png")).astype(int)
    shades = {tuple(color) for color in np.unique(drawn.reshape(-1, 3), axis=0).tolist()}
    # The legend has the classes that occur in their own colors; the tiles blend them over gray, 60 to 40.
    assert {colors[0], colors[1]} <= shades
    assert colors[2] not in shades
    for color in colors[:2]:
        blended = tuple(round(0.4 * 128 + 0.6 * part) for part in color)
        near = np.abs(drawn - blended).max(axis=-1) <= 1
        assert near.sum() > 0.8 * 240 * 240
    # Void pixels keep the gray of the image: half of b beside the image itself.
    assert (drawn == 128).all(axis=-1).sum() > 0.8 * 240 * 240
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["splits"]["roads_train"]["images"] == 2


def test_no_figure_is_written_if_all_files_are_broken(tmp_path, tool, capsys):
    write_labels(tmp_path, {"a": [[0, 9]]})
    assert (
        tool.main([str(write_yaml(tmp_path, ROADS)), "--workers", "0", "--output", str(tmp_path / "out")])
        == 1
    )
    assert "no examples: no file could be read" in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["report.json"]


def test_a_closed_pipe_ends_the_check_without_a_traceback(tmp_path, tool, monkeypatch, capfd):
    write_labels(tmp_path, GOOD)
    arguments = [str(write_yaml(tmp_path, ROADS)), "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["segzoo", *arguments])
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert tool.main() == 0
    assert capfd.readouterr().err == ""


def test_only_some_of_many_absent_classes_are_named(tmp_path, tool, capsys):
    write_labels(tmp_path, {"a": [[0, 1, 0]]})
    file = write_yaml(tmp_path, {**ROADS, "classes": [f"class_{index}" for index in range(100)]})
    assert tool.main([str(file), "--workers", "0"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "class_41 and 58 more (--json lists all) note 98 of 100 classes do not occur" in printed


def test_no_table_is_shown_if_no_label_can_be_read(tmp_path, tool, capsys):
    write_labels(tmp_path, {"a": [[7]]})
    assert tool.main([str(write_yaml(tmp_path, ROADS)), "--workers", "0"]) == 1
    printed = capsys.readouterr().out
    assert "labels that are no class (7 in 1 files)" in printed
    assert "pixels    images" not in printed
    assert "absent:" not in printed
