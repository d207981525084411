"""tools/try_versions.py: what it installs, and that untested versions do not count as passed."""

import importlib.util
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def tool(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("try_versions", ROOT / "tools" / "try_versions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return module


def test_every_bound_of_setup_is_tried(tool):
    project = (ROOT / "pyproject.toml").read_text()
    lines = project.split("\ndependencies = [")[1].split("\n]")[0].splitlines()
    needs = {need.name: need for need in (Requirement(line.strip(' ",')) for line in lines if line.strip())}
    oldest = tool.packages_to_install("oldest", tool.requirements())
    assert needs.keys() - oldest.keys() == {"torch", "torchvision", "fvcore", "iopath"}
    assert tool.packages_to_install("oldest-torch", tool.requirements()).keys() - oldest.keys() == {
        "torch",
        "torchvision",
    }
    for name, specifier in oldest.items():
        (bound,) = (part.version for part in needs[name].specifier if part.operator == ">=")
        assert specifier == f"=={bound}"
    newest = tool.packages_to_install("newest", tool.requirements())
    assert {name: str(needs[name].specifier) for name in newest} == newest


def test_the_tests_are_there(tool):
    assert [name for name in tool.TESTS if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "ERROR: No matching distribution found for numpy==1.24\n",
            "No matching distribution found for numpy",
        ),
        ("python: No module named pip\n", "pip: python: No module named pip"),
        ("", "pip: no message"),
    ],
)
def test_a_failed_environment_is_not_a_success(tool, monkeypatch, capsys, said, reason):
    def run(command, **_):
        return subprocess.CompletedProcess(command, int("pip" in command), "", said)

    monkeypatch.setattr(tool.subprocess, "run", run)
    monkeypatch.setattr(tool.sys, "argv", ["try_versions.py", "oldest", "newest"])
    assert tool.main() == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:3] for line in lines] == [[name, "NOT", "TESTED:"] for name in ("oldest", "newest")]
    assert all(reason in line for line in lines)


def test_pip_and_the_tests_see_the_same_packages(tool, monkeypatch, tmp_path):
    """A package on PYTHONPATH would count as installed for pip, and be hidden from the tests."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "module"))
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraints.txt"))
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "https://example.org/simple")
    environments = {}

    def run(command, env=None, **_):
        name = next(word for word in ("-c", "venv", "pip", "pytest") if word in command)
        environments[name] = env
        return subprocess.CompletedProcess(command, 0, '{"numpy": "1.24.0"}', "")

    monkeypatch.setattr(tool.subprocess, "run", run)
    monkeypatch.setattr(tool, "ON_TORCH", ())
    monkeypatch.setattr(tool, "borrow", lambda *_: None)
    tool.run_tests(tool.build("oldest", {"numpy": "==1.24"}))
    assert [environments[name].get("PYTHONPATH") for name in ("pip", "-c")] == [None, None]
    assert environments["pytest"]["PYTHONPATH"] == str(ROOT)
    assert environments["pip"]["PIP_INDEX_URL"] == "https://example.org/simple"
    assert environments["pip"]["PIP_USER"] == "0"
    assert "PIP_CONSTRAINT" not in environments["pip"]


def test_an_environment_borrows_wherever_the_interpreter_finds_packages(tool, monkeypatch, tmp_path):
    """As one with --system-site-packages; what is nowhere is no failure of the tests, which did not run."""
    lenders = [tmp_path / name / "site-packages" for name in ("own", "system")]
    for lender, package in zip(lenders, ("torch", "detectron2"), strict=True):
        (lender / f"{package}-1.5.dist-info").mkdir(parents=True)
        (lender / f"{package}-1.5.dist-info" / "METADATA").write_text(f"Name: {package}\nVersion: 1.5\n")
    monkeypatch.setattr(tool.sys, "path", [*map(str, lenders), str(tmp_path)])
    monkeypatch.setattr(tool, "install", lambda *_: None)
    monkeypatch.setattr(tool, "ON_TORCH", ())
    with pytest.raises(tool.NotBuiltError, match=r"^torchvision, pytest, pytest-xdist: not found"):
        tool.build("oldest", {})
    monkeypatch.setattr(tool, "BORROWED", ("torch", "detectron2"))
    python = tool.build("oldest", {})
    assert tool.installed_versions(python, ["torch", "detectron2"]) == {"torch": "1.5", "detectron2": "1.5"}


def test_failing_tests_fail(tool, monkeypatch, capsys):
    monkeypatch.setattr(tool, "build", lambda *_: Path("python"))
    for status, expected in ((0, 0), (1, 1), (4, 1), (-9, 1)):
        monkeypatch.setattr(
            tool.subprocess,
            "run",
            lambda command, status=status, **_: subprocess.CompletedProcess(command, status),
        )
        monkeypatch.setattr(tool.sys, "argv", ["try_versions.py", "newest"])
        assert tool.main() == expected


def test_another_version_than_the_bound_is_noticed(tool, monkeypatch):
    monkeypatch.setattr(tool, "installed_versions", lambda *_: {"numpy": "1.26.4"})
    monkeypatch.setattr(tool, "install", lambda *_: None)
    monkeypatch.setattr(tool, "borrow", lambda *_: None)
    monkeypatch.setattr(tool, "ON_TORCH", ())
    monkeypatch.setattr(tool.subprocess, "run", lambda *_, **__: None)
    with pytest.raises(tool.NotBuiltError, match="numpy"):
        tool.build("oldest", {"numpy": "==1.24"})
    tool.build("oldest", {"numpy": "==1.26.4"})
    assert tool.same_version("1.24.0", "1.24")
    assert tool.same_version("2.4.0+cpu", "2.4")
    assert not tool.same_version("1.24.1", "1.24")
    assert not tool.same_version("1.10", "1.1")
