"""Runs tools in this process, and checks that existing results are not changed."""

import importlib
from collections.abc import Callable
from typing import NamedTuple

import pytest

from segzoo.cli.commands import COMMANDS
from segzoo.cli.main import load
from tests.data.data_trees import datasets_folder  # noqa: F401  a fixture of every test

# What a finished training has left in its folder.
SENTINELS = {
    "model_final.pth": b"weights",
    "last_checkpoint": b"model_final.pth",
    "metrics.json": b'{"iteration": 9}\n',
    "inference/results.json": b"{}\n",
    "sem_seg/a.png": b"prediction",
}


class Answer(NamedTuple):
    """The exit status of a tool, and the lines of its two outputs."""

    status: int
    out: list[str]
    err: list[str]


@pytest.fixture
def output(tmp_path):
    """A folder with results, which the test must not change."""
    folder = tmp_path / "output"
    for name, content in SENTINELS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    yield folder
    assert {name: (folder / name).read_bytes() for name in SENTINELS} == SENTINELS


@pytest.fixture
def tool(capsys) -> Callable[..., Answer]:
    """Runs the `main` of a script in tools/ or of a sub-command: tool("train_net", "--input", ...)."""

    def run(name: str, *arguments: object) -> Answer:
        main = (load(name) if name in COMMANDS else importlib.import_module(name)).main
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse's own complaints
            status = end.code
        found = capsys.readouterr()
        return Answer(status, found.out.splitlines(), found.err.splitlines())

    return run


@pytest.fixture
def refusal(tool, output) -> Callable[..., str]:
    """The one-line error of a tool for its arguments, with "{output}" as the folder of results."""

    def run(name: str, *arguments: object) -> str:
        answer = tool(name, *(str(argument).replace("{output}", str(output)) for argument in arguments))
        assert answer.status not in (0, None), answer.out
        # Progress bars are redrawn in their line and wiped before the message.
        said = [line.rpartition("\r")[2] for line in answer.err]
        said = [line for line in said if line and "image/s" not in line and "?image" not in line]
        assert len(said) == 1, said
        assert said[0].startswith("error: "), said
        assert "Traceback" not in said[0]
        return said[0].removeprefix("error: ")

    return run
