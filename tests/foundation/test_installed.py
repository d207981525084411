"""The wheel in an environment of its own, outside a source tree, from generated data to an exported model."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "semantic/shapes/pspnet_r18_quarter"


class Installed:
    """An environment that has segzoo from the wheel alone, and an empty folder to work in."""

    def __init__(self, environment: Path, folder: Path):
        self.environment = environment
        self.folder = folder
        self.variables = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "DETECTRON2_DATASETS", "VIRTUAL_ENV"))
        } | {"PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def run(self, *words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in the folder."""
        program = self.environment / "bin" / str(words[0])
        done = subprocess.run(
            [str(program), *map(str, words[1:])],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done


@pytest.fixture(scope="module")
def installed(wheel_file, tmp_path_factory) -> Installed:
    """It borrows torch, Detectron2 and the rest from this environment by a .pth file.

    Python does not read the .pth files of the folders that this one names, and an editable installation of
    segzoo is such a file.
    """
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False)
    (packages,) = environment.glob("lib/python*/site-packages")
    install = ["-m", "pip", "--python", str(environment / "bin" / "python"), "install", "-q", "--no-deps"]
    subprocess.run([sys.executable, *install, "--no-index", str(wheel_file)], check=True, timeout=300)
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    folders |= {str(Path(importlib.util.find_spec("detectron2").origin).parents[1])}
    (packages / "borrowed.pth").write_text("\n".join(sorted(folders)) + "\n")
    return Installed(environment, tmp_path_factory.mktemp("empty"))


def test_segzoo_comes_from_the_wheel_and_brings_nothing_of_the_source_tree(installed):
    code = """
import importlib.util, json, pathlib, sys
import segzoo, segzoo.projects
found = [importlib.util.find_spec(f"segzoo.{name}") is not None for name in ("tests", "tools", "cli.train")]
places = [str(pathlib.Path(module.__file__).parent) for module in (segzoo, segzoo.projects)]
print(json.dumps([found, places, sys.path, [type(one).__module__ for one in sys.meta_path]]))
"""
    found, places, path, finders = json.loads(installed.run("python", "-c", code).stdout)
    assert found == [False, False, True]
    assert all(Path(place).is_relative_to(installed.environment) for place in places)
    assert str(ROOT) not in path
    assert not [finder for finder in finders if finder.startswith("__editable__")]


def test_an_installed_package_prepares_trains_evaluates_predicts_and_exports(installed):
    assert list(installed.folder.iterdir()) == []
    assert "train a model" in installed.run("segzoo", "--help").stdout
    installed.run("segzoo", "prepare", "shapes", "--train", 16, "--val", 3, "--size", 64, "--workers", 0)

    overrides = ["SOLVER.MAX_ITER", 30, "SOLVER.IMS_PER_BATCH", 4, "TEST.EVAL_PERIOD", 0]
    overrides += ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", "run"]
    said = installed.run("segzoo", "train", "--config-file", CONFIG, *overrides).stdout
    run = installed.folder / "run"
    assert json.loads((run / "metrics.json").read_text().splitlines()[-1])["iteration"] == 29
    (weights,) = {name for name in ("model_best.pth", "model_final.pth") if f"run/{name} --input" in said}
    # What comes next is a command that this environment has.
    assert f"To evaluate: segzoo evaluate --weights run/{weights}" in said

    installed.run("segzoo", "evaluate", "--weights", f"run/{weights}")
    (results,) = run.glob("eval-*/inference/results.json")
    assert 0 <= json.loads(results.read_text())["results"]["shapes_val"]["sem_seg"]["mIoU"] <= 100

    images = sorted((installed.folder / "datasets" / "shapes" / "images" / "val").iterdir())
    installed.run(
        "segzoo", "predict", "--weights", f"run/{weights}", "--input", images[0].parent, "--output", "out"
    )
    assert sorted(path.stem for path in (installed.folder / "out").iterdir()) == [
        path.stem for path in images
    ]

    # The module and the command are one; the exported program needs neither.
    words = ["--weights", f"run/{weights}", "--size", 64, 64, "--output", "model.pt2"]
    installed.run("python", "-m", "segzoo", "export", *words)
    code = """
import sys, torch
outputs = torch.export.load("model.pt2").module()(torch.zeros(1, 3, 64, 64))
print("segzoo" in sys.modules, [tuple(value.shape)[:2] for value in outputs.values()])
"""
    assert installed.run("python", "-c", code).stdout == "False [(1, 11)]\n"


def test_wrong_input_is_one_line_that_names_what_there_is(installed):
    def said(*words):
        return installed.run("segzoo", *words, status=2).stderr

    assert said("trian") == "error: unknown command trian; did you mean train?; see segzoo --help\n"
    assert said("train", "--config-fil", CONFIG).endswith(
        "did you mean --config-file?; see segzoo train --help\n"
    )
    line = said("train", "--config-file", CONFIG, "--data", "nowhere.yaml")
    assert line.startswith("error: ")
    assert line.count("\n") == 1
