"""What commands say leads on for a user of the installed package, who has no checkout."""

import re
from pathlib import Path

import pytest

from segzoo.cli.commands import COMMANDS
from segzoo.cli.main import load

ROOT = Path(__file__).resolve().parents[2]


def printed(capsys, command, *words):
    try:
        status = load(command).main(list(words))
    except SystemExit as end:
        status = end.code
    return status, capsys.readouterr()


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
        ("analyze", ["--model", "x"], "unrecognized arguments: --model"),
        ("analyze", ["--hlep"], "did you mean --help?"),
    ],
)
def test_a_wrong_command_line_leads_to_the_right_one(command, words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, shown = printed(capsys, command, *words)
    assert status == 2
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert "--model; did you mean" not in shown.err
