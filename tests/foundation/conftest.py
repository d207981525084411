"""The wheel, which several files look into."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def wheel_file(tmp_path_factory) -> Path:
    """The wheel, built from a copy of what is packaged, so that the source tree stays clean."""
    pytest.importorskip("setuptools", minversion="77.0.3")
    copy = tmp_path_factory.mktemp("source")
    for name in ("segzoo", "projects", "configs"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy)
    # What the link segzoo/cli/datasets.md leads to.
    (copy / "datasets").mkdir()
    shutil.copy(ROOT / "datasets" / "README.md", copy / "datasets")
    words = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(copy / "out")]
    result = subprocess.run(words, cwd=copy, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (file,) = (copy / "out").glob("*.whl")
    return file
