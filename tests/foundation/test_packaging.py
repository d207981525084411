"""The files of the wheel, the pinned versions, the commands of make."""

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib
from packaging.requirements import Requirement

from segzoo.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parent.parent.parent
needs_make = pytest.mark.skipif(not (ROOT / "Makefile").is_file(), reason="not a source tree")


def run_setup(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(wheel_file) -> set[str]:
    """The names of the wheel's files."""
    with zipfile.ZipFile(wheel_file) as archive:
        return set(archive.namelist())


def test_wheel_has_all_code(wheel):
    code = {str(file.relative_to(ROOT)) for file in ROOT.glob("segzoo/**/*.py")}
    code |= {f"segzoo/{file.relative_to(ROOT)}" for file in ROOT.glob("projects/**/*.py")}
    assert code <= wheel
    top_level = {name.split("/")[0] for name in wheel}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"segzoo"}


def test_wheel_has_what_users_run_and_nothing_else(wheel):
    """No benchmarks, no tests, nothing that edits the zoo's tables or makes documents of them."""
    data = {"segzoo/py.typed", "segzoo/cli/datasets.md"}
    data |= {f"segzoo/model_zoo/plot/page.{kind}" for kind in ("css", "js")}
    kinds = {Path(name).suffix for name in wheel - data if ".dist-info/" not in name}
    assert kinds == {".py", ".yaml"}
    assert data <= wheel
    code = {name for name in wheel if name.endswith(".py")}
    own = {name for name in code if not name.startswith(("segzoo/cli/", "segzoo/projects/"))}
    assert not [name for name in own if re.search(r"benchmark|/tests?/|/tools/|tables\.py|editing", name)]
    assert {f"segzoo/cli/{command.module}" for command in COMMANDS.values()} <= {
        name.removesuffix(".py").removesuffix("/__init__") for name in code
    }
    written = "def write_reproduced|do not edit it by hand|ArgumentParser\\("
    files = [ROOT / name.replace("segzoo/projects/", "projects/") for name in own]
    assert not [file for file in files if re.search(written, file.read_text(encoding="utf-8"))]


def test_wheel_has_all_configurations_and_data_tables(wheel):
    yaml = {str(file.relative_to(ROOT)) for file in ROOT.glob("segzoo/**/*.yaml")}
    yaml |= {f"segzoo/{file.relative_to(ROOT)}" for file in ROOT.glob("configs/**/*.yaml")}
    assert yaml
    assert yaml <= wheel


def test_wheel_has_the_page_on_datasets(wheel):
    assert "segzoo/cli/datasets.md" in wheel


def test_wheel_has_license_and_notice(wheel):
    assert {Path(name).name for name in wheel if "dist-info/" in name} >= {"LICENSE", "NOTICE"}


def pinned_versions() -> dict[str, str]:
    lines = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {normalized(name): version for name, version in pins}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared() -> list[Requirement]:
    """What `make` installs: the requirements of the package and of its extras test, lint and docs."""
    extras = project()["optional-dependencies"]
    listed = (
        *project()["dependencies"],
        *(line for name in ("test", "lint", "docs") for line in extras[name]),
    )
    return [Requirement(line) for line in listed]


# Those whose module has another name than the package.
MODULES = {"panopticapi-lite": "panopticapi", "pytest-xdist": "xdist"}


def requirement_name(line: str) -> str:
    return Requirement(line).name


@pytest.mark.skipif(not (ROOT / "Makefile").is_file(), reason="not a source tree")
def test_every_package_of_an_extra_is_used_and_every_extra_is_documented():
    folders = ("segzoo", "projects", "tools", "tests", "datasets")
    code = "\n".join(file.read_text() for folder in folders for file in ROOT.glob(f"{folder}/**/*.py"))
    make, install = (ROOT / "Makefile").read_text(), (ROOT / "INSTALL.md").read_text()
    commands = {"ruff": "-m ruff ", "mypy": "-m mypy", "pdoc": "-m pdoc ", "xdist": "pytest -n "}
    extras = project()["optional-dependencies"]
    extras.pop("all")  # other extras
    for extra, needs in extras.items():
        # mypy reads stubs without an import.
        for name in (name for name in map(requirement_name, needs) if not name.startswith("types-")):
            module = MODULES.get(name, name.replace("-", "_"))
            imported = re.search(rf"^ *(import|from) {module}\b", code, flags=re.MULTILINE)
            assert imported or commands.get(module, "no command") in make, (extra, name)
    promised = set(re.findall(r'"\.\[(.+?)\]"', install))
    assert {extra for names in promised for extra in names.split(",")} <= set(
        project()["optional-dependencies"]
    )


def test_every_declared_requirement_is_pinned_to_a_version_that_it_allows():
    pins = pinned_versions()
    wrong = [
        str(need) for need in declared() if not need.specifier.contains(pins.get(normalized(need.name), "0"))
    ]
    assert wrong == []


def test_torch_is_pinned_as_the_installer_installs_it():
    installer = (ROOT / "tools" / "install_environment.py").read_text()
    pins = pinned_versions()
    assert f'TORCH_VERSION = "{pins["torch"]}"' in installer
    assert f'TORCHVISION_VERSION = "{pins["torchvision"]}"' in installer


def test_installing_again_ignores_only_missing_requirements_of_the_peers(monkeypatch):
    """The peers are installed without their requirements, so `pip check` complains about them ever after."""
    spec = importlib.util.spec_from_file_location("installer", ROOT / "tools" / "install_environment.py")
    installer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(installer)
    said = (
        "mmcv-lite 2.1.0 requires opencv-python, which is not installed.\n"
        "torchvision 0.28.0 has requirement torch==2.13.0, but you have torch 2.12.0.\n"
    )
    monkeypatch.setattr(
        installer.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, said, "")
    )
    assert installer.package_conflicts() == said.splitlines()[1:]


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTHON", "MFLAGS"))
    }
    return subprocess.run(
        ["make", "-C", str(ROOT), *arguments],
        env={**settings, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_make
@pytest.mark.parametrize("target", ["quickstart", "test", "versions", "lint", "docs", "bench"])
def test_every_target_makes_the_environment_first(target):
    lines = [line for line in make("-n", target).stdout.splitlines() if not line.startswith("make")]
    assert lines[0].endswith("tools/install_environment.py")
    assert all(".venv/bin/python" in line for line in lines[1:])


@needs_make
def test_a_given_python_is_used_and_nothing_is_installed_into_it():
    lines = [line for line in make("-n", "test", PYTHON="/some/python").stdout.splitlines() if "/" in line]
    commands = [line for line in lines if not line.startswith("make")]
    assert all("/some/python" in line and "install" not in line and ".venv" not in line for line in commands)
    assert "doctor.py --needs test" in commands[0]


@needs_make
def test_a_given_python_without_detectron2_is_refused_in_one_line(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')  # -S: no installed packages
    python.chmod(0o755)
    result = make("test", PYTHON=str(python))
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1
    assert "detectron2" in lines[0]
    assert "tools/install_detectron2.py" in lines[0]


def test_ci_runs_the_linter_the_test_command_of_the_readme_and_the_bounds_of_setup():
    commands = (ROOT / ".ci" / "run").read_text().splitlines()[-3:]
    assert commands == ["make lint", "make test", "make versions"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
