"""A checkpoint opens alone: without a configuration, its dataset, or the folder it was written from."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from segzoo.checkpoint import read_checkpoint, save_checkpoint
from segzoo.cli import analyze, check_data, config, diagnosis, visualize_data
from segzoo.engine import Predictor, Trainer, default_setup
from segzoo.engine.model_config import model_config
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.data.data_trees import random_image, write_roads
from tests.robustness.test_bad_checkpoints import CONFIG

PICTURE = random_image(32, 32)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run that was started with relative paths; the dataset lies in `data` beside it."""
    home = tmp_path / "home"
    write_roads(home / "data", np.arange(5, dtype=np.uint8).repeat(16).reshape(8, 10))
    (home / "config.yaml").write_text(CONFIG.replace("{folder}", "data"))
    monkeypatch.chdir(home)
    cfg = load_config("config.yaml", ["OUTPUT_DIR", "run", "SEED", "1"])
    default_setup(cfg)
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    # Away from zero: a classifier starts with none.
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight)
    Trainer.build_checkpointer(cfg, model).save("model_best")
    return home / "run"


@pytest.fixture
def expected(run):
    """Scores of the image where the checkpoint was written."""
    cfg = load_config("config.yaml", ["MODEL.WEIGHTS", "run/model_best.pth"])
    return Predictor(cfg)(PICTURE, color="RGB")["sem_seg"]


def forget_the_run() -> None:
    """Unregisters its dataset and the classes of its checkpoints: a new process knows none of them."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in list(catalog):
            if name.startswith("roads_") or " of " in name:
                catalog.pop(name)


@pytest.fixture
def elsewhere(run, expected, tmp_path, monkeypatch):
    """Another folder with checkpoint and config.yaml, on a machine that has nothing else of the run."""
    forget_the_run()
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("model_best.pth", "config.yaml"):
        shutil.copy(run / name, folder)
    shutil.move(run.parent, tmp_path / "gone")
    monkeypatch.chdir(folder)
    return folder


def test_a_predictor_needs_the_file_only(elsewhere, expected):
    predictor = Predictor("model_best.pth")
    assert torch.equal(predictor(PICTURE, color="RGB")["sem_seg"], expected)
    classes = yaml.safe_load((elsewhere.parent / "gone/data/roads.yaml").read_text())["classes"]
    assert predictor.metadata.classes == classes
    assert len(set(predictor.metadata.colors)) == len(classes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": None}, "does not name the classes it was trained for; give --config-file FILE"),
        ({"classes": "road"}, "does not name the classes it was trained for; give --config-file FILE"),
        ({"classes": ["road"]}, "names 1 classes, but has 5 .*; give --config-file FILE"),
    ],
)
def test_a_checkpoint_that_contradicts_itself_is_one_line(elsewhere, change, message):
    content = torch.load("model_best.pth", weights_only=True)
    content["segzoo"].update(change)
    torch.save(content, "changed.pth")
    with pytest.raises(InputError, match=f"^changed.pth: {message}$"):
        Predictor("changed.pth")


def test_the_demo_needs_the_file_only(elsewhere, tool):
    from PIL import Image

    Image.fromarray(PICTURE).save("a.png")
    given = ["--input", "a.png", "--output", "out", "--save-labels"]
    assert tool("demo", "--weights", "model_best.pth", *given).status == 0
    labels = np.array(Image.open("out/labels/a.png"))
    scores = Predictor("model_best.pth")("a.png")["sem_seg"]
    assert np.array_equal(labels, scores.argmax(0).numpy())
    # The run's own configuration beside it, whose dataset is not there.
    assert tool("demo", "--config-file", "config.yaml", "--weights", "model_best.pth", *given).status == 0
    assert np.array_equal(np.array(Image.open("out/labels/a.png")), labels)


def test_other_tools_need_the_file_only(elsewhere, tool, expected):
    assert tool("convert_checkpoint", "--input", "model_best.pth", "--output", "a.safetensors").status == 0
    assert torch.equal(Predictor("a.safetensors")(PICTURE, color="RGB")["sem_seg"], expected)
    sizes = ["--size", "32", "32", "--output", "a.pt2"]
    answer = tool("export_model", "--weights", "a.safetensors", *sizes)
    assert answer.status == 0, answer.err


@pytest.mark.parametrize("given", [[], ["--config-file"], ["--model"], ["--weights"]])
def test_config_prints_what_a_checkpoint_was_trained_with(run, capsys, given):
    file = "run/model_best.pth"
    assert config.main([*given, file]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    held = yaml.safe_load(read_checkpoint(file).description["config"])
    if given == ["--weights"]:  # KEY VALUE overrides, of which it is one, come on top
        held["MODEL"]["WEIGHTS"] = file
    assert shown == held
    assert config.main([*given, file, "--origin", "SOLVER.MAX_ITER", "SOLVER.MAX_ITER", "7"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["SOLVER.MAX_ITER", "7", "override"]
    assert rows[1] == [str(held["SOLVER"]["MAX_ITER"]), file]


@pytest.mark.parametrize("name", ["last.ckpt", "nameless", "renamed.backup"])
def test_a_checkpoint_with_another_name_is_recognized_by_its_content(run, capsys, name):
    shutil.copy("run/model_best.pth", name)
    assert config.main([name, "--diff", "run/config.yaml"]) == 0
    # What of a configuration belongs to the machine of the run.
    rows = capsys.readouterr().out.splitlines()[1:]
    assert {row.split()[0] for row in rows} <= {"MODEL.DEVICE", "OUTPUT_DIR", "DATASETS.FILES"}
    with pytest.raises(InputError, match=f"^{name} is a checkpoint, not a configuration"):
        load_config(name)


def test_commands_take_the_configuration_that_a_checkpoint_holds(elsewhere, capsys, monkeypatch):
    """On a machine that lacks its dataset; what reads the dataset says so."""
    file = "model_best.pth"
    assert config.main([file, "--diff", file]) == 0
    assert capsys.readouterr().out == f"{file} and {file} have the same values\n"
    weights = read_checkpoint(file).weights
    parameters = sum(value.numel() for key, value in weights.items() if key.endswith((".weight", ".bias")))
    for given in ([file], ["--model", file], ["--weights", file]):
        assert analyze.main([*given, "--size", "32", "32", "--json", "MODEL.DEVICE", "cpu"]) == 0
        (counted,) = json.loads(capsys.readouterr().out)
        assert counted["params_M"] == round(parameters / 1e6, 3)
    for command, given in ((check_data, []), (visualize_data, ["--output", "out"])):
        assert command.main(["--model", file, *given]) == 2
        assert "data/roads.yaml does not exist" in capsys.readouterr().err
    # Where the dataset is, by the same words.
    more = ["DATASETS.FILES", f'["{elsewhere.parent}/gone/data/roads.yaml"]']
    assert check_data.main(["--model", file, "--workers", "0", "--json", *more]) in (0, 1)
    assert "roads_train" in capsys.readouterr().out
    assert visualize_data.main(["--config-file", file, "--output", "out", "--number", "1", *more]) == 0
    assert (elsewhere / "out/sheet.png").is_file()
    items = list(diagnosis.check_config(file, more))
    assert [item.status for item in items] == ["ok"] * 4


def test_a_checkpoint_in_the_place_of_a_configuration_says_where_that_is(run):
    line = "run/model_best.pth is a checkpoint, not a configuration; give the one it was trained with, "
    with pytest.raises(InputError, match=f"^{line}run/config.yaml, and the checkpoint as --weights"):
        load_config("run/model_best.pth")
    load_config("run/config.yaml", ["MODEL.WEIGHTS", "run/model_best.pth"])
    (run / "config.yaml").rename(run / "other.yaml")
    with pytest.raises(InputError, match=f"^{line}which is config.yaml in its OUTPUT_DIR"):
        load_config("run/model_best.pth")


def test_evaluation_names_all_datasets_that_are_missing_and_keeps_the_others(elsewhere, refusal):
    content = torch.load("model_best.pth", weights_only=True)
    held = yaml.safe_load(content["segzoo"]["config"])
    held["DATASETS"]["FILES"] = ["/gone/a.yaml", "camvid", "/gone/b.yaml"]
    content["segzoo"]["config"] = yaml.safe_dump(held)
    torch.save(content, "several.pth")
    line = refusal("train_net", "--eval-only", "--weights", "several.pth", "OUTPUT_DIR", "evaluated")
    assert line.endswith(
        "/gone/a.yaml and /gone/b.yaml do not exist here; say where they are now: "
        'DATASETS.FILES \'["FILE","camvid","FILE"]\''
    )


def test_evaluation_asks_for_the_dataset_and_takes_it_where_it_is(elsewhere, refusal, tool):
    given = ["--eval-only", "--weights", "model_best.pth", "OUTPUT_DIR", "evaluated"]
    line = refusal("train_net", *given)
    assert line == (
        f"model_best.pth is tested on roads_train, but {elsewhere.parent}/home/data/roads.yaml does not "
        "exist here; say where it is now: DATASETS.FILES '[\"FILE\"]'"
    )
    moved = elsewhere.parent / "gone/data/roads.yaml"
    answer = tool("train_net", *given, "DATASETS.FILES", f'["{moved}"]')
    assert answer.status == 0, answer.err
    assert (elsewhere / "evaluated/inference/results.json").is_file()
    # Where the evaluation was written, its configuration is complete.
    forget_the_run()
    assert tuple(load_config("evaluated/config.yaml").DATASETS.TEST) == ("roads_train",)


def test_evaluation_asks_for_a_dataset_that_the_script_of_a_training_registered(elsewhere, refusal, tool):
    content = torch.load("model_best.pth", weights_only=True)
    held = yaml.safe_load(content["segzoo"]["config"])
    held["DATASETS"]["FILES"] = []
    content["segzoo"]["config"] = yaml.safe_dump(held)
    torch.save(content, "script.pth")
    given = ["--eval-only", "--weights", "script.pth", "OUTPUT_DIR", "evaluated"]
    assert refusal("train_net", *given) == (
        "script.pth is tested on roads_train, which is not registered; name the file that describes it: "
        "DATASETS.FILES '[\"FILE\"]'"
    )
    # A name that is not the checkpoint's is a mistake, not a missing file.
    assert refusal("train_net", *given, "DATASETS.TEST", "('camvid_vla',)") == (
        "DATASETS.TEST 'camvid_vla' is unknown; did you mean camvid_val?"
    )
    # The remedy, and a module that does what the script did.
    moved = elsewhere.parent / "gone/data/roads.yaml"
    answer = tool("train_net", *given, "DATASETS.FILES", f'["{moved}"]')
    assert answer.status == 0, answer.err
    forget_the_run()
    (elsewhere / "registers_roads.py").write_text(
        f"from segzoo.data import register_dataset_file\nregister_dataset_file({str(moved)!r})\n"
    )
    answer = tool("train_net", *given, "IMPORTS", '["registers_roads"]')
    assert answer.status == 0, answer.err


def test_evaluation_finds_the_dataset_from_any_folder(run, tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = tool("train_net", "--eval-only", "MODEL.WEIGHTS", run / "model_best.pth", "OUTPUT_DIR", "out")
    assert answer.status == 0, answer.err
    assert (tmp_path / "out/inference/results.json").is_file()


def test_changed_classes_are_the_checkpoints_for_visualizations_and_an_error_for_metrics(run, refusal):
    file = run.parent / "data/roads.yaml"
    content = yaml.safe_load(file.read_text())
    before = list(content["classes"])
    content["classes"][0] = "meadow"
    file.write_text(yaml.safe_dump(content))
    assert Predictor(run / "model_best.pth").metadata.classes == before
    given = ["--eval-only", "--weights", run / "model_best.pth", "OUTPUT_DIR", "{output}"]
    line = refusal("train_net", *given)
    assert "DATASETS.TEST: roads_train has other classes than roads_train of model_best.pth" in line
    assert "class 0 is 'meadow' instead of" in line


def test_paths_in_a_saved_configuration_do_not_depend_on_the_folder(run, tmp_path, monkeypatch):
    home = run.parent
    cfg = load_config("config.yaml", ["OUTPUT_DIR", "again", "MODEL.WEIGHTS", "run/model_best.pth#model"])
    cfg.DATASETS.FILES = (*cfg.DATASETS.FILES, "shapes")
    default_setup(cfg)
    monkeypatch.chdir(tmp_path)
    saved = yaml.safe_load((home / "again/config.yaml").read_text())
    assert saved["OUTPUT_DIR"] == str(home / "again")
    assert saved["MODEL"]["WEIGHTS"] == f"{home}/run/model_best.pth#model"
    # A built-in dataset has the same name everywhere.
    assert list(saved["DATASETS"]["FILES"]) == [f"{home}/data/roads.yaml", "shapes"]
    assert load_config(home / "again/config.yaml").MODEL.SEM_SEG_HEAD.NUM_CLASSES == 5


@pytest.mark.parametrize("address", ["https://example.com/a.pth", "detectron2://a.pkl", "catalog://a/b"])
def test_addresses_are_saved_as_they_are(run, address):
    cfg = load_config("config.yaml", ["OUTPUT_DIR", "again", "MODEL.WEIGHTS", address])
    default_setup(cfg)
    assert yaml.safe_load((run.parent / "again/config.yaml").read_text())["MODEL"]["WEIGHTS"] == address


def test_a_checkpoint_knows_no_machine(run):
    saved = yaml.safe_load(read_checkpoint(run / "model_best.pth").description["config"])
    assert saved["MODEL"]["DEVICE"] == "cuda"
    assert saved["MODEL"]["WEIGHTS"] == ""
    assert saved["OUTPUT_DIR"] == ""


def test_two_checkpoints_of_one_name_do_not_disturb_each_other(run, tmp_path):
    file = read_checkpoint(run / "model_best.pth")
    other = {**file.description, "classes": [f"other {index}" for index in range(5)]}
    save_checkpoint(tmp_path / "model_best.pth", {"model": file.weights, "segzoo": other})
    first, second = Predictor(run / "model_best.pth"), Predictor(tmp_path / "model_best.pth")
    assert first.metadata.classes == file.description["classes"]
    assert second.metadata.classes == other["classes"]


def test_a_checkpoint_without_configuration_says_what_to_give(run, tmp_path):
    file = read_checkpoint(run / "model_best.pth")
    old = {key: value for key, value in file.description.items() if key != "config"}
    save_checkpoint(tmp_path / "old.pth", {"model": file.weights, "segzoo": old})
    save_checkpoint(tmp_path / "other.pth", {"model": file.weights})
    with pytest.raises(InputError, match=r"old.pth holds no configuration \(segzoo .* wrote none\)"):
        Predictor(tmp_path / "old.pth")
    with pytest.raises(InputError, match=r"other.pth holds no configuration \(it is not segzoo's\); "):
        Predictor(tmp_path / "other.pth")
    # The remedy.
    for name in ("old.pth", "other.pth"):
        Predictor(load_config("config.yaml"), tmp_path / name)


def test_an_old_checkpoint_replaces_a_dataset_that_is_not_there(elsewhere, expected):
    file = read_checkpoint("model_best.pth")
    content = ("version", "task", "dataset", "classes", "colors", "isthing", "ignore_label", "label_map")
    old = {key: file.description[key] for key in content}
    save_checkpoint("old.pth", {"model": file.weights, "segzoo": old})
    predictor = Predictor(model_config("config.yaml", weights="old.pth"))
    assert torch.equal(predictor(PICTURE, color="RGB")["sem_seg"], expected)
    with pytest.raises(InputError, match=r"dataset file .*roads.yaml does not exist"):
        model_config("config.yaml")


def test_a_predictor_takes_one_checkpoint_and_no_configuration_file(run):
    with pytest.raises(InputError, match=r"config.yaml is a configuration; give load_config\("):
        Predictor("config.yaml")
    with pytest.raises(InputError, match=r"a.pth and b.pth are two checkpoints"):
        Predictor("a.pth", "b.pth")
    with pytest.raises(InputError, match=r"nowhere.pth: does not exist"):
        Predictor("nowhere.pth")


def test_nothing_given_is_one_line(refusal, run):
    given = ["--input", "a.png", "--output", "out"]
    for line in (refusal("demo", *given), refusal("train_net", "--eval-only", "OUTPUT_DIR", "{output}")):
        assert "or with --model or --weights a checkpoint of segzoo, which holds its configuration" in line
    two = ["--weights", "a.pth", "MODEL.WEIGHTS", "b.pth"]
    assert "are two checkpoints; give one" in refusal("train_net", "--eval-only", *two)


def test_random_weights_are_random(run, tool, refusal):
    """Also where the configuration names weights to start a training from, which fill the backbone only."""
    from PIL import Image

    Image.fromarray(PICTURE).save("a.png")
    state = read_checkpoint("run/model_best.pth").weights
    torch.save({k.removeprefix("backbone."): v for k, v in state.items() if "backbone" in k}, "backbone.pth")
    (run.parent / "config.yaml").write_text((run.parent / "config.yaml").read_text() + "OUTPUT_DIR: x\n")
    text = (
        (run.parent / "config.yaml")
        .read_text()
        .replace("DEVICE: cpu", "DEVICE: cpu\n  WEIGHTS: backbone.pth")
    )
    (run.parent / "config.yaml").write_text(text)
    given = ["--config-file", "config.yaml", "--random-weights", "--input", "a.png", "--output", "out"]
    assert tool("demo", *given).status == 0
    assert os.path.isfile("out/a.jpg")
    line = refusal("demo", *given, "--weights", "run/model_best.pth")
    assert line.startswith("--random-weights and the weights run/model_best.pth contradict each other")
