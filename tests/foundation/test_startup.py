"""The start-up file of the environment that `make venv` builds: torchvision and Detectron2 before segzoo."""

import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest

from segzoo import compat

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def site_packages(tmp_path_factory) -> Path:
    """A folder of packages into which the installer has put the start-up file."""
    spec = importlib.util.spec_from_file_location("installer", ROOT / "tools" / "install_environment.py")
    installer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installer)
    folder = tmp_path_factory.mktemp("packages")
    installer.python_output = lambda _: str(folder)
    installer.install_startup()
    return folder


def run_started(site_packages: Path, code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Runs code where `site` has read the folder, as it reads that of an environment before all else."""
    start = f"import site, sys; sys.path.insert(0, {str(ROOT)!r}); site.addsitedir({str(site_packages)!r})\n"
    return subprocess.run(
        [sys.executable, *flags, "-c", start + code], capture_output=True, text=True, check=False, timeout=120
    )


def test_torchvision_and_detectron2_are_imported_before_segzoo_in_isolated_mode_too(site_packages):
    code = """
import torchvision
import detectron2.modeling
import torch
boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
print(torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5).tolist())
import segzoo
"""
    result = run_started(site_packages, code, "-I")
    assert (result.stdout.strip(), result.stderr) == ("[1, 2]", "")


def test_until_then_nothing_is_imported(site_packages):
    code = """
import json, email
print(sorted(name for name in set(sys.modules) if name.split(".")[0] in ("segzoo", "torch", "numpy")))
"""
    assert run_started(site_packages, code).stdout.strip() == "[]"


def test_imports_work_without_segzoo(site_packages):
    code = """
sys.modules["segzoo"] = None  # as if it were not there
try:
    import torchvision.no_such_module
except ImportError as error:
    print("torchvision" in str(error) or "operator" in str(error))
except RuntimeError as error:
    print("torchvision::nms" in str(error))
"""
    assert run_started(site_packages, code).stdout.strip() == "True"


def test_operators_that_load_are_left_alone():
    """The patch sees torchvision.extension, whose operators load here."""
    module = types.SimpleNamespace(_has_ops=lambda: True)
    libraries = len(compat._libraries)
    with compat._with_nms_schema(module):
        pass
    assert len(compat._libraries) == libraries
    assert vars(module).keys() == {"_has_ops"}
