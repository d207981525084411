"""The commands for datasets: what they write, that they can be repeated, and their messages."""

import json
import re

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

from segzoo.cli import check_data, evaluate, visualize_data
from segzoo.cli.convert_data import panoptic
from segzoo.cli.prepare import ade20k as ade20k_command
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.data.data_trees import ROADS, random_image, save, write_panoptic, write_roads, write_street


@pytest.fixture
def ade20k(datasets_folder):
    root = datasets_folder / "ADEChallengeData2016"
    for split in ("training", "validation"):
        for number in range(3):
            save(root / f"images/{split}/{number}.jpg", random_image(3, 4))
            labels = np.array([[0, 1, 2, 150]] * 3, dtype=np.uint8)
            save(root / f"annotations/{split}/{number}.png", labels)
    return root


def test_ade20k_labels_are_shifted_once_and_finished_files_stay(prepare, ade20k, capsys):
    # Not the published number of images: labels are written, and the exit status is 1.
    assert prepare("ade20k") == 1
    assert "ade20k_sem_seg_train: 3 images, published: 20210" in capsys.readouterr().out
    target = ade20k / "annotations_detectron2/training/1.png"
    assert np.array(Image.open(target)).tolist() == [[255, 0, 1, 149]] * 3
    written = target.stat().st_mtime_ns
    (ade20k / "annotations_detectron2/training/2.png").unlink()
    assert prepare("ade20k", "--root", ade20k) == 1
    assert target.stat().st_mtime_ns == written
    names = sorted(file.name for file in target.parent.iterdir())
    assert names == ["0.png", "1.png", "2.png"]


def test_ade20k_labels_out_of_range_are_named_and_not_written(prepare, ade20k, capsys):
    save(ade20k / "annotations/training/1.png", np.full((3, 4), 255, dtype=np.uint8))
    assert prepare("ade20k") == 1
    assert "1.png: label 255 is outside [0, 150]; is it converted already?" in capsys.readouterr().err
    # An incomplete folder would be read in place of the complete annotations/.
    assert not (ade20k / "annotations_detectron2/training").exists()
    (ade20k / "annotations/training/1.png").unlink()
    save(ade20k / "annotations/training/1.png", np.full((3, 4), 5, dtype=np.uint8))
    assert prepare("ade20k") == 1
    assert len(list((ade20k / "annotations_detectron2/training").iterdir())) == 3
    assert not list((ade20k / "annotations_detectron2").glob("*.partial"))


def test_an_interrupted_conversion_of_ade20k_is_not_read_and_is_resumed(prepare, ade20k, monkeypatch):
    whole = ade20k_command.save_labels

    def interrupted(labels, target):
        if target.name == "1.png":
            raise KeyboardInterrupt
        whole(labels, target)

    with monkeypatch.context() as patched:
        patched.setattr(ade20k_command, "save_labels", interrupted)
        assert prepare("ade20k") == 128 + 2
    folder = ade20k / "annotations_detectron2/training"
    assert not folder.exists()
    first = folder.with_name("training.partial") / "0.png"
    written = first.stat().st_mtime_ns
    (first.parent / ".1.png.77").touch()
    assert len(DatasetCatalog.get("ade20k_sem_seg_train")) == 3  # of annotations/
    assert prepare("ade20k") == 1
    assert sorted(file.name for file in folder.iterdir()) == ["0.png", "1.png", "2.png"]
    assert (folder / "0.png").stat().st_mtime_ns == written
    assert not first.parent.exists()


def test_a_missing_ade20k_is_explained(prepare, datasets_folder, capsys):
    assert prepare("ade20k") == 2
    error = capsys.readouterr().err
    assert "no annotations/ in" in error
    assert error.endswith("prepare ade20k --help` shows where to get it\n")


@pytest.fixture
def coco(datasets_folder, tmp_path):
    ids = np.array([[1, 2], [3, 0]]) * 1000
    segments = [
        {"id": 1000, "category_id": 1},
        {"id": 2000, "category_id": 200},
        {"id": 3000, "category_id": 3, "iscrowd": 1},
    ]
    categories = [{key: one[key] for key in ("id", "name", "isthing")} for one in COCO_CATEGORIES]
    write_panoptic(tmp_path / "source", {"a": ids}, {"a": segments}, categories)
    root = datasets_folder / "coco"
    (root / "annotations").mkdir(parents=True)
    (tmp_path / "source/images").rename(root / "val2017")
    (tmp_path / "source/panoptic").rename(root / "panoptic_val2017")
    (tmp_path / "source/panoptic.json").rename(root / "annotations/panoptic_val2017.json")
    return root


def test_coco_is_checked_counted_and_its_semantic_labels_written(prepare, coco, capsys):
    arguments = ["--split", "coco_2017_val_panoptic", "--statistics", "--semantic", "--workers", "1"]
    assert prepare("coco_panoptic", *arguments) == 1
    printed = capsys.readouterr().out
    assert "coco_2017_val_panoptic: 1 images, published: 5000" in printed
    assert "3 segments, 1 of them crowds" in printed
    assert "mean 2.0" in printed
    written = np.array(Image.open(coco / "panoptic_semseg_val2017/a.png"))
    assert written.tolist() == [[0, 132], [2, 255]]


def test_a_contradiction_in_coco_is_named(prepare, coco, capsys):
    file = coco / "annotations/panoptic_val2017.json"
    content = json.loads(file.read_text())
    del content["annotations"][0]["segments_info"][0]
    file.write_text(json.dumps(content))
    prepare("coco_panoptic", "--split", "coco_2017_val_panoptic", "--labels")
    assert "a.png: segment ids 1000 are not in the segments_info" in capsys.readouterr().err


def test_a_missing_coco_is_explained(prepare, capsys):
    assert prepare("coco_panoptic", "--split", "coco_2017_val_panoptic") == 1
    assert "set DETECTRON2_DATASETS" in capsys.readouterr().err


def test_annotations_are_drawn_with_the_colors_of_their_classes(tmp_path):
    labels = np.repeat(np.repeat(np.array([[0, 255]], dtype=np.uint8), 30, 0), 20, 1)
    color = {"name": "road", "color": [250, 0, 0]}
    file = write_roads(tmp_path, labels, classes=[color, *ROADS["classes"][1:]])
    save(tmp_path / "images/train/a.png", np.full((30, 40, 3), 100, dtype=np.uint8))
    assert (
        visualize_data.main(["--dataset-file", str(file), "--output", str(tmp_path / "out"), "--number", "3"])
        == 0
    )
    drawn = np.array(Image.open(tmp_path / "out/roads_train_a.png")).astype(int)
    assert (tmp_path / "out/sheet.png").is_file()
    # Image and visualization side by side: road is tinted red, void is the image itself.
    bottom = drawn[-10:, -40:]
    assert (bottom[:, 5:15, 0] - bottom[:, 5:15, 2] > 100).all()
    assert (bottom[:, 25:, :] == 100).all()


@pytest.mark.parametrize("task", ["panoptic", "entity", "instance", "semantic"])
def test_the_output_of_the_mapper_is_drawn_for_every_task(tmp_path, task):
    file = write_street(tmp_path)
    arguments = [
        "--config-file",
        "panoptic/coco/maskformer_r50",
        "--dataset-file",
        str(file),
        "--number",
        "2",
    ]
    options = ["TASK", task, "INPUT.MIN_SIZE_TRAIN", "(40,)", "INPUT.MAX_SIZE_TRAIN", "80"]
    assert visualize_data.main([*arguments, "--output", str(tmp_path / "out"), "--opts", *options]) == 0
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["0000_a.png", "0001_a.png", "sheet.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "mapper", "--split", "camvid_val"], "--source mapper needs --config-file"),
        ([], "the dataset is missing; give --data"),
        (["--split", "camvid_vol"], "did you mean camvid_val?"),
        (["--data", "camvid_vol"], "dataset file camvid_vol does not exist; did you mean camvid?"),
    ],
)
def test_wrong_flags_are_explained(tmp_path, capsys, arguments, message):
    assert visualize_data.main([*arguments, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_a_split_without_labels_has_nothing_to_draw(datasets_folder, tmp_path, capsys):
    save(datasets_folder / "VOC2012/JPEGImages/a.jpg", random_image(4, 4))
    (datasets_folder / "VOC2012/ImageSets/Segmentation").mkdir(parents=True)
    (datasets_folder / "VOC2012/ImageSets/Segmentation/test.txt").write_text("a\n")
    arguments = ["--split", "voc_2012_sem_seg_test", "--output", str(tmp_path / "out")]
    assert visualize_data.main(arguments) == 2
    assert "nothing to draw: the dataset has no images with labels" in capsys.readouterr().err


TWO_SPLITS = {"roads_train": "train", "roads_val": "val"}


@pytest.fixture
def two_splits(tmp_path):
    """Write roads.yaml with the splits roads_train and roads_val, one image each."""
    labels = np.zeros((8, 10), np.uint8)
    file = write_roads(tmp_path, labels, splits=TWO_SPLITS)
    for kind in ("images", "masks"):
        for source in (tmp_path / kind / "train").iterdir():
            (tmp_path / kind / "val").mkdir(exist_ok=True)
            (tmp_path / kind / "val" / source.name).write_bytes(source.read_bytes())
    return str(file)


@pytest.mark.parametrize("flag", ["--split", "--dataset"])
@pytest.mark.parametrize("more", [[], ["--config-file", "semantic/camvid/maskformer_r18"]])
def test_one_split_of_a_dataset_is_drawn(two_splits, tmp_path, flag, more):
    """Its files, and with a configuration its training samples."""
    output = tmp_path / "out"
    given = [*more, "--data", two_splits, "--output", str(output), "--number", "1"]
    options = ["INPUT.MIN_SIZE_TRAIN", "(40,)", "INPUT.CROP_SIZE", "()"] if more else []
    assert visualize_data.main([*given, flag, "roads_val", *options]) == 0
    expected = "0000_a.png" if more else "roads_val_a.png"
    assert sorted(file.name for file in output.iterdir()) == [expected, "sheet.png"]


@pytest.mark.parametrize("command", [visualize_data, check_data, evaluate, panoptic])
def test_every_command_names_the_existing_splits(two_splits, tmp_path, capsys, command):
    needed = {
        visualize_data: ["--output", str(tmp_path / "out")],
        evaluate: ["--weights", "a.pth"],
        panoptic: ["--instances", "a.json"],
    }
    assert command.main(["--data", two_splits, *needed.get(command, []), "--split", "nosuch"]) == 2
    assert re.fullmatch(
        r"error: --split nosuch: \S*roads.yaml has roads_train, roads_val\n", capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_the_split_of_an_evaluation_is_that_of_saved_predictions_or_the_tested_ones(two_splits, capsys):
    def parsed(*words):
        return evaluate.build_parser().parse_args(words)

    model = ["--config-file", "semantic/camvid/maskformer_r18", "--weights", "a.pth", "--data", two_splits]
    options = ["SEED", "1"]
    for chosen in (["roads_val"], ["roads_train", "roads_val"]):
        found = parsed(*model, "--split", *chosen, *options)
        cfg = load_config(found.config_file, found.opts)
        assert tuple(cfg.DATASETS.TEST) == tuple(chosen)
    with pytest.raises(InputError, match=r"--split is DATASETS\.TEST; give one of them"):
        parsed(*model, "--split", "roads_val", "DATASETS.TEST", "('roads_val',)")
    with pytest.raises(InputError, match="--predictions are those of one split; give one"):
        parsed("--predictions", "x", "--split", "roads_train", "roads_val")
    for flag in ("--split", "--dataset"):
        assert parsed("--predictions", "x", flag, "roads_val").split == ["roads_val"]
    with pytest.raises(SystemExit):
        parsed("--help")
    text = capsys.readouterr().out
    assert "--split NAME [NAME ...]" in text
    assert "--dataset " not in text
