"""tools/doctor.py looks for what the packaging requires."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def assigned(file, name):
    """The literal that a module assigns to a name."""
    for node in ast.parse((REPOSITORY / file).read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{file} has no {name}")


def test_the_doctor_looks_for_every_required_package():
    project = (REPOSITORY / "pyproject.toml").read_text()
    listed = project.split("\ndependencies = [")[1].split("\n]")[0]
    required = set(re.findall(r'^ *"([\w-]+)', listed, re.MULTILINE))
    # Detectron2 is no requirement of the package: it is installed from its source.
    assert set(assigned("tools/doctor.py", "REQUIRED").values()) == required | {"detectron2"}


@pytest.mark.parametrize("given", [["--data", "roads.yaml"], ["SEED", "1"], ["--config"], ["--nonsense"]])
def test_a_wrong_command_line_is_one_line(monkeypatch, capsys, given):
    monkeypatch.setattr(sys, "argv", ["doctor.py", *given])
    with pytest.raises(SystemExit) as end:
        importlib.import_module("doctor").main()
    found = capsys.readouterr()
    assert end.value.code == 2
    assert not found.out
    (line,) = found.err.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("see doctor.py --help")
    assert ("tools/check_dataset.py roads.yaml" in line) == ("roads.yaml" in given)
