"""`segzoo prepare` and other data commands: help, lists, remedies in messages, earlier scripts."""

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from detectron2.data import DatasetCatalog

from segzoo.cli import check_data, convert_data, dataset_guide, prepare
from segzoo.cli.prepare.table import PREPARATIONS, SYNONYMS
from segzoo.data import register_dataset_file
from segzoo.data.dataset_file import DATASET_KEYS
from segzoo.utils.errors import InputError
from tests.data.data_trees import random_image, save

REPOSITORY = Path(__file__).resolve().parents[2]
CATALOG = {file.stem: file for file in (REPOSITORY / "segzoo/data/catalog").glob("*.yaml")}
CONTENTS = {name: yaml.safe_load(file.read_text()) for name, file in CATALOG.items()}
README = (REPOSITORY / "datasets/README.md").read_text(encoding="utf-8")


def help_of(main, *words, capsys):
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_every_built_in_dataset_can_be_prepared():
    assert PREPARATIONS.keys() == CATALOG.keys()


@pytest.mark.parametrize("name", PREPARATIONS)
def test_help_shows_the_source_and_the_folders_of_a_dataset(name, capsys):
    text = help_of(prepare.main, name, capsys=capsys)
    assert f"segzoo prepare {name}" in text
    assert "--check" in text or not PREPARATIONS[name].makes or name in ("coco_panoptic", "shapes")
    # The tree shows one of the possible root folders.
    layouts = CONTENTS[name].get("layouts", [{}])
    roots = [one.get("root", CONTENTS[name].get("root")) for one in layouts]
    roots = {part for root in roots for part in ([root] if isinstance(root, str) else root)}
    assert any(re.search(rf"^    {re.escape(root)}/", text, re.MULTILINE) for root in roots)
    assert name == "shapes" or "From http" in text or "instances_{train,val}2017.json" in text
    assert "](" not in text
    assert "```" not in text


def test_the_list_has_every_dataset_once(capsys):
    assert prepare.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if line.split() and line.split()[0] in PREPARATIONS]
    assert listed == list(PREPARATIONS)


@pytest.mark.parametrize("main", [prepare.main, convert_data.main])
@pytest.mark.parametrize("words", [[], ["no_such_thing"], ["--no-such-flag"]])
def test_a_wrong_word_is_one_line(main, words, capsys):
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    found = capsys.readouterr()
    assert status == 2
    assert found.out == ""
    assert found.err.startswith("error: ")
    assert found.err.count("\n") == 1


def test_a_misspelt_dataset_is_recognized(capsys):
    assert prepare.main(["ade20k_panoptik"]) == 2
    assert "did you mean ade20k_panoptic?" in capsys.readouterr().err
    assert convert_data.main(["panoptik"]) == 2
    assert "did you mean panoptic?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        *((split, name) for name, content in CONTENTS.items() for split in content["splits"]),
        ("roads.yaml", "check-data roads.yaml"),
    ],
)
def test_other_names_lead_to_the_right_command(name, remedy, capsys):
    assert prepare.main([name]) == 2
    error = capsys.readouterr().err
    assert re.search(rf"`.*\b{re.escape(remedy)}`", error), error


def test_the_catalog_and_the_page_name_existing_commands():
    rows = [line for line in README.splitlines() if line.startswith("| [`")]
    for name, content in CONTENTS.items():
        command = content.get("prepare")
        assert command in (None, f"segzoo prepare {name}")
        split = next(iter(content["splits"]))
        (row,) = [row for row in rows if split in expanded(row)]
        assert (f"`segzoo prepare {name}`" in row.split("|")[-2]) == (command is not None)
    named = set(re.findall(r"segzoo prepare (\w+)", README)) - {"NAME"}
    assert named <= PREPARATIONS.keys()
    assert len(named) > 10


def expanded(row):
    """Return the names of splits in the first cell of a row; `name_{a,b}` stands for two."""
    found = set()
    for template in re.findall(r"`([^`]+)`", row.split("|")[1]):
        before, choices, after = re.fullmatch(r"(\w*)\{([\w,]+)\}(\w*)", template).groups()
        found |= {f"{before}{choice}{after}" for choice in choices.split(",")}
    return found


def test_a_missing_dataset_names_the_command_that_shows_its_folders(datasets_folder, capsys):
    with pytest.raises(InputError, match="set DETECTRON2_DATASETS") as error:
        DatasetCatalog.get("camvid_val")
    (command,) = re.findall(r"`segzoo (prepare [^`]+)`", str(error.value))
    with pytest.raises(SystemExit):
        prepare.main(shlex.split(command)[1:])
    assert "{train,val,test}_labels/0001TP_006690.png" in capsys.readouterr().out


def test_datasets_without_preparation_are_counted(datasets_folder, capsys):
    for split in ("train", "val", "test"):
        save(datasets_folder / f"CamVid/{split}/a.png", random_image(2, 2))
        save(datasets_folder / f"CamVid/{split}_labels/a.png", random_image(2, 2)[..., 0])
    before = sorted(datasets_folder.rglob("*"))
    assert prepare.main(["camvid"]) == 1
    found = capsys.readouterr()
    assert "camvid_val: 1 images, published: 101" in found.out
    assert "`segzoo prepare camvid --help`" in found.err
    assert sorted(datasets_folder.rglob("*")) == before


def test_the_page_explains_every_key_of_a_dataset_file(capsys):
    with pytest.raises(SystemExit) as end:
        check_data.main(["--keys"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert {key for key in DATASET_KEYS if f"`{key}`" not in text} == set()
    assert "](#" not in text
    assert "**" not in text


def test_the_remedy_for_an_empty_dataset_file_shows_one_that_works(tmp_path, datasets_folder, capsys):
    (tmp_path / "roads.yaml").write_text("")
    with pytest.raises(InputError, match="`segzoo check-data --keys` shows a dataset file"):
        register_dataset_file(str(tmp_path / "roads.yaml"))
    text = help_of(check_data.main, capsys=capsys)
    example = re.search(r"    # roads\.yaml\n((?:    .*\n)+)", text)[1]
    (tmp_path / "roads.yaml").write_text(re.sub(r"^    ", "", example, flags=re.MULTILINE))
    for split in ("train", "val"):
        save(tmp_path / f"images/{split}/{split}.jpg", random_image(4, 4, len(split)))
        save(tmp_path / f"masks/{split}/{split}.png", random_image(4, 4)[..., 0] % 3)
    assert check_data.main([str(tmp_path / "roads.yaml"), "--workers", "0"]) == 0


def test_a_part_of_a_section_is_shown_with_the_introduction():
    text = dataset_guide.section("Human parsing: MHP v1")
    assert "Left and right are the person's" in text
    assert "test_list.txt" in text
    assert "{Training,Validation}/Category_ids" not in text
    with pytest.raises(KeyError):
        dataset_guide.section("Human parsing: ADE20K")


def test_the_package_carries_the_page():
    copy = REPOSITORY / "segzoo/cli/datasets.md"
    assert copy.read_text(encoding="utf-8") == README


@pytest.mark.parametrize("is_named", [False, True])
def test_shapes_prints_its_folder_and_the_command_to_train_on_it(tmp_path, monkeypatch, capsys, is_named):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    given = ["--root", str(tmp_path / "data of mine/shapes")] if is_named else []
    small = ["--train", "2", "--val", "1", "--size", "32", "--workers", "1"]
    assert prepare.main(["shapes", *given, *small]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / ("data of mine/shapes" if is_named else "datasets/shapes")
    assert f"Shapes is in {folder} (" in out
    exports = re.findall(r"^  export DETECTRON2_DATASETS=(.*)$", out, re.MULTILINE)
    assert [shlex.split(one) for one in exports] == ([[str(folder.parent)]] if is_named else [])
    assert "train --config-file panoptic/shapes/mask2former_r18_quarter" in out
    # The built-in dataset is found in the printed folder.
    if exports:
        monkeypatch.setenv("DETECTRON2_DATASETS", shlex.split(exports[0])[0])
    assert len(DatasetCatalog.get("shapes_train")) == 2


def test_scripts_of_earlier_names_run_the_commands():
    """Each is three lines; its command and dataset are read from its source."""
    expected = {f"prepare_{name}.py": ["prepare", name] for name, one in PREPARATIONS.items() if one.makes}
    del expected["prepare_shapes.py"], expected["prepare_voc_2012.py"], expected["prepare_coco_panoptic.py"]
    expected |= {f"prepare_{old}.py": ["prepare", new] for old, new in SYNONYMS.items() if old != "voc"}
    expected |= {"make_shapes.py": ["prepare", "shapes"]}
    found = {file.name: called(file) for file in (REPOSITORY / "datasets").glob("*.py")}
    assert found == expected
    tools = {"check_dataset": ["check-data"], "visualize_data": ["visualize-data"]}
    tools["make_panoptic"] = ["convert-data", "panoptic"]
    assert {name: called(REPOSITORY / f"tools/{name}.py") for name in tools} == tools


def called(file):
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    (call,) = [node for node in calls if getattr(node.func, "id", "") == "run_script"]
    return [argument.value for argument in call.args]


# Prints the libraries that commands import, in addition to those of `import segzoo`.
IMPORTED = """
import importlib, json, sys
import segzoo

before = set(sys.modules)
for command, words in json.loads(sys.argv[1]):
    try:
        importlib.import_module(f"segzoo.cli.{command}").main(words)
    except SystemExit:
        pass
slow = {"torch", "torchvision", "detectron2", "cv2", "scipy", "numpy", "matplotlib", "PIL", "pycocotools"}
print("imported:", sorted(slow & (set(sys.modules) - before)))
"""


def test_help_lists_and_wrong_words_import_no_library():
    commands = [["prepare", [name, "--help"]] for name in PREPARATIONS]
    commands += [["prepare", words] for words in (["--help"], ["--list"], ["ade20"], ["ade20k", "--chek"])]
    commands += [["check_data", words] for words in (["--help"], ["--keys"], [], ["--jso"])]
    commands += [["visualize_data", words] for words in (["--help"], ["--data", "x"])]
    commands += [["convert_data", words] for words in (["--help"], ["panoptic", "--help"], ["panoptic"])]
    commands += [["convert_data", ["panoptic-to-detection", *words]] for words in (["--help"], [])]
    ended = subprocess.run(
        [sys.executable, "-c", IMPORTED, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "imported: []"
    assert ended.stdout.count("usage: ") >= len(PREPARATIONS) + 5
