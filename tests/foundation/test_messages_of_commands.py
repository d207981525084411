"""What commands say leads on for a user of the installed package, who has no checkout."""

import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest

from segzoo.cli.commands import COMMANDS
from segzoo.cli.main import load, main

ROOT = Path(__file__).resolve().parents[2]


def printed(capsys, command, *words):
    try:
        status = load(command).main(list(words))
    except SystemExit as end:
        status = end.code
    return status, capsys.readouterr()


CONFIG = "semantic/camvid/maskformer_r18"


@pytest.mark.parametrize("command", COMMANDS)
def test_usage_shows_that_overrides_come_last(command, capsys):
    parser = load(command).build_parser()
    assert parser.format_usage().endswith(" [KEY VALUE ...]\n") == parser.has_overrides


@pytest.mark.parametrize("name", ["test", "val", "infer", "list", "download", "version", "demo"])
def test_a_command_of_other_projects_leads_to_the_one_here(name, capsys):
    assert main([name]) == 2
    named = re.fullmatch(rf"error: segzoo {name}: use segzoo (\S+?),?( .*)?\n", capsys.readouterr().err)[1]
    assert named in [*COMMANDS, "--version"]


@pytest.mark.parametrize("module", ["train", "config", "main"])
def test_a_module_of_a_command_runs_it(module, monkeypatch, capsys):
    """`python -m segzoo.cli.train`, which otherwise would do nothing and succeed."""
    importlib.import_module(f"segzoo.cli.{module}")  # else there is no warning where this test runs alone
    monkeypatch.setattr(sys, "argv", [f"{module}.py", "--no-such-option"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.warns(RuntimeWarning, match="found in sys.modules"), pytest.raises(SystemExit) as end:
        runpy.run_module(f"segzoo.cli.{module}", run_name="__main__")
    assert end.value.code == 2
    assert "--no-such-option" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_no_file_of_a_checkout(command, capsys):
    status, shown = printed(capsys, command, "--help")
    assert status == 0
    assert not re.findall(r"python (?:tools|datasets)/\S+|under configs/", shown.out)


def test_the_page_that_help_prints_names_no_script():
    text = (ROOT / "datasets" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"python (?:tools|datasets)/\S+", text) == []


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("convert-data", ["panopt", "roads.yaml", "--output", "x"], "did you mean panoptic?"),
        (
            "evaluate",
            ["--weights", "w.pth", "--evaluators", "boundary"],
            "scores saved predictions, with --predictions FOLDER; for a model set TEST.EVALUATORS",
        ),
        ("train", ["--weights", "w.pth"], "--weights is what a training starts from"),
        ("train", ["--config-file", "zzz"], "config file zzz does not exist; `segzoo zoo` lists the names"),
        ("replay", ["x.pth", "--model", "x"], "unrecognized arguments: --model"),
        ("analyze", ["--hlep"], "did you mean --help?"),
        ("analyze", [CONFIG, "model.device", "cpu"], "unknown key model.device; did you mean MODEL.DEVICE?"),
        ("config", [CONFIG, "solver.base_lr", "1"], "solver.base_lr; did you mean SOLVER.BASE_LR?"),
        ("config", [CONFIG, "seed", "1"], "unrecognized arguments: seed 1; did you mean SEED?"),
        ("config", ["model.pth"], "model.pth: does not exist"),
        (
            "evaluate",
            ["--weights", "w.pth", "--class-averaging", "all"],
            "--class-averaging scores saved predictions, with --predictions FOLDER; leave it out",
        ),
        (
            "visualize-data",
            ["--config-file", "semantic/camvid/maskformer_r18", "--output", "o", "SOLVER.MAX_ITER"],
            "'SOLVER.MAX_ITER' has no value",
        ),
    ],
)
def test_a_wrong_command_line_leads_to_the_right_one(command, words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, shown = printed(capsys, command, *words)
    assert status == 2
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert "--model; did you mean" not in shown.err


def test_a_section_of_a_package_of_ones_own_is_overridden_and_files_are_not():
    parser = load("predict").build_parser()
    words = ["--weights", "w.pth", "--output", "o", "--input", "A.JPG", "b.jpg", "MYNET.DEPTH", "3"]
    parsed = parser.parse_args(words)
    assert parsed.input == ["A.JPG", "b.jpg"]
    assert parsed.opts[-2:] == ["MYNET.DEPTH", "3"]


def test_help_of_a_dataset_is_that_of_its_preparation(capsys):
    with pytest.raises(SystemExit) as end:
        main(["help", "prepare", "ade20k"])
    assert end.value.code == 0
    assert "prepare ade20k" in capsys.readouterr().out
