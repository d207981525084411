"""`segzoo doctor` looks for what the packaging requires."""

import re
from pathlib import Path

import pytest

from segzoo.cli import diagnosis, doctor

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_doctor_looks_for_every_required_package():
    project = (REPOSITORY / "pyproject.toml").read_text()
    listed = project.split("\ndependencies = [")[1].split("\n]")[0]
    required = set(re.findall(r'^ *"([\w-]+)', listed, re.MULTILINE))
    # Detectron2 is no requirement of the package: it is installed from its source.
    assert set(diagnosis.REQUIRED.values()) == required | {"detectron2"}


@pytest.mark.parametrize("given", [["--data", "roads.yaml"], ["SEED", "1"], ["--config"], ["--nonsense"]])
def test_a_wrong_command_line_is_one_line(capsys, given):
    try:
        status = doctor.main(given)
    except SystemExit as end:  # argparse's own
        status = end.code
    found = capsys.readouterr()
    assert status == 2
    assert not found.out
    (line,) = found.err.splitlines()
    assert line.startswith("error: ")
    assert ("segzoo check-data roads.yaml" in line) == ("roads.yaml" in given)
