"""`segzoo doctor` checks for the packages that segzoo requires."""

import re
from pathlib import Path

import pytest

from segzoo.cli import diagnosis, doctor
from segzoo.data.dataset_file import CATALOG

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_doctor_checks_for_every_required_package():
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


def test_datasets_that_are_not_there_take_one_line(datasets_folder):
    (datasets_folder / "ADEChallengeData2016").mkdir(parents=True)
    items = list(diagnosis.check_datasets())
    assert [item.status for item in items] == ["ok", "ok"]
    assert items[1].name.strip() == "not found"
    names = sorted(file.stem for file in CATALOG.glob("*.yaml"))
    assert items[1].text.split(", ") == names


def test_what_a_configuration_lacks_is_named_once(datasets_folder):
    datasets_folder.mkdir(exist_ok=True)
    options = ["MODEL.DEVICE", "cpu", "SOLVER.OPTIMIZER", "nosuch"]
    items = list(diagnosis.check_config("semantic/ade20k/maskformer_r50", options))
    failed = [str(item) for item in items if item.status == "FAIL"]
    for line, name in zip(failed, ("ade20k_sem_seg_train", "ade20k_sem_seg_val", "nosuch"), strict=True):
        assert line.count(name) == 1
