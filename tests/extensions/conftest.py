"""A private package: written by a test outside the tree, found through IMPORTS, forgotten afterwards."""

import sys
import textwrap
from pathlib import Path

import pytest

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
from segzoo.cli.prepare.shapes import make_shapes
from tests.registrations import forgotten

# A small network that trains on the generated dataset in tenths of a second.
SMALL = """
TASK: semantic
DATASETS: {TRAIN: ["shapes_train"], TEST: ["shapes_val"]}
MODEL:
  META_ARCHITECTURE: PerPixelSegmentor
  DEVICE: cpu
  BACKBONE: {NAME: ResNetBackbone, VARIANT: r18_quarter, NORM: BN}
  SEM_SEG_HEAD: {NAME: FCNHead, IN_FEATURES: ["res5"], CONVS_DIM: 16, NORM: BN}
INPUT: {MIN_SIZE_TRAIN: [48], CROP_SIZE: [48, 48], MIN_SIZE_TEST: 48, MAX_SIZE_TEST: 48}
SOLVER: {IMS_PER_BATCH: 2, MAX_ITER: 2, BASE_LR: 0.01, LOG_PERIOD: 1}
DATALOADER: {NUM_WORKERS: 0}
TEST: {NUM_PICTURES: 0, SCORING_THREADS: 0}
SEED: 1
"""


class Package:
    """A package that tests write into a folder on Python's path.

    Attributes:
        folder: where the package and the user's configurations lie; the current folder.
        name: of the package, to be listed in IMPORTS.
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name

    def write(self, text: str, module: str = "__init__") -> None:
        file = self.folder / self.name / f"{module}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(textwrap.dedent(text))

    def config(self, text: str = "", base: str = SMALL, imports: bool = True) -> Path:
        """Write a configuration with the package in its IMPORTS, and `text` over `base`."""
        (self.folder / "base.yaml").write_text(base)
        file = self.folder / "config.yaml"
        line = f'IMPORTS: ["{self.name}"]\n' if imports else ""
        file.write_text(f"_BASE_: base.yaml\n{line}{textwrap.dedent(text)}")
        return file


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """An empty `Package`; its registrations and modules are removed after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    name = "private_" + "".join(c if c.isalnum() else "_" for c in request.node.name).strip("_")
    with forgotten():
        yield Package(tmp_path, name)
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """The folder of a tiny generated dataset, shapes_train and shapes_val."""
    folder = tmp_path_factory.mktemp("datasets")
    make_shapes(folder / "shapes", train=4, val=2, size=48, workers=0)
    return folder


@pytest.fixture
def train(shapes, monkeypatch, tmp_path):
    """Return a function that trains a configuration file with KEY VALUE pairs, and returns OUTPUT_DIR."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shapes))

    def run(config: Path, *words: str) -> Path:
        from segzoo.cli.train import main

        output = tmp_path / "output"
        flags = [word for word in words if word.startswith("--")]
        pairs = [word for word in words if not word.startswith("--")]
        arguments = ["--debug", *flags, "--config-file", str(config), *pairs]
        assert main([*arguments, "OUTPUT_DIR", str(output)]) == 0
        return output

    return run
