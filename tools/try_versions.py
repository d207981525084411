#!/usr/bin/env python
"""Run a fast part of the tests with the oldest and with the newest libraries that pyproject.toml allows.

    python tools/try_versions.py oldest newest     # what CI runs
    python tools/try_versions.py oldest-torch      # torch and torchvision too; 3 GB to download

    environment   its own packages                        borrowed from the environment that runs this file
    oldest        the requirements at their lower bounds  torch, torchvision, Detectron2 and its needs, pytest
    newest        the requirements at their newest        the same
    oldest-torch  as oldest, and torch and torchvision    Detectron2 and its needs, pytest

Each environment is created again in .build/versions/. The exit status is 0 if all tests passed, 1 if some
failed, and 2 if an environment could not be created and so was not tested.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".build" / "versions"
ENVIRONMENTS = ("oldest", "newest", "oldest-torch")
TORCH = ("torch", "torchvision")
# Installed with Detectron2, which needs them in versions of its own.
WITH_DETECTRON2 = ("fvcore", "iopath")
# Installed without dependencies: they need torch, which is borrowed and so not seen by pip.
ON_TORCH = ("timm",)
# Borrowed packages, which must be found too.
BORROWED = (*TORCH, "detectron2", "pytest", "pytest-xdist")
# Labels, encodings, the mapper and its augmentations; evaluators; timm's backbones; drawing; small trainings.
# None of them needs transformers, which itself needs newer libraries than pyproject.toml's lower bounds.
TESTS = (
    *(f"tests/data/test_{name}.py" for name in ("pixels", "label_reading", "encodings", "mapper")),
    *(f"tests/data/test_{name}.py" for name in ("augmentation", "target_functions", "panoptic_datasets")),
    *(
        f"tests/evaluation/test_{name}_evaluator.py"
        for name in ("semantic", "panoptic", "instance", "entity")
    ),
    "tests/modeling/test_timm_backbone.py",
    "tests/demo/test_draw.py",
    "tests/demo/test_make_shapes.py",
    "tests/engine/test_trainer.py",
    "tests/engine/test_instance_training.py",
    "tests/foundation/test_compat.py",
)


class NotBuiltError(Exception):
    """The reason why an environment could not be created, in one line."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environments", nargs="+", choices=ENVIRONMENTS)
    outcomes = {name: outcome(name) for name in parser.parse_args().environments}
    for name, (status, text) in outcomes.items():
        print(f"{name:<13} {text}", file=sys.stderr if status else sys.stdout)
    return max(status for status, _ in outcomes.values())


def outcome(name: str) -> tuple[int, str]:
    """Create an environment and run the tests in it; return the exit status and a message."""
    started = time.monotonic()
    try:
        python = build(name, packages_to_install(name, requirements()))
    except NotBuiltError as error:
        return 2, f"NOT TESTED: {error}"
    failed = run_tests(python)
    return failed, f"{'FAILED' if failed else 'passed'} after {time.monotonic() - started:.0f} s"


def requirements() -> dict[str, str]:
    """Return the package's requirements, {name: specifier}, e.g. {"numpy": ">=1.24"}."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^dependencies = \[\n(.*?)^\]", project, re.M | re.S)
    return dict(re.findall(r'^ *"([\w-]+)([^"]*)",$', listed, re.M))


def packages_to_install(name: str, allowed: Mapping[str, str]) -> dict[str, str]:
    """Return the packages for pip to install into an environment, {name: specifier}."""
    borrowed = WITH_DETECTRON2 if name == "oldest-torch" else (*WITH_DETECTRON2, *TORCH)
    own = {package: specifier for package, specifier in allowed.items() if package not in borrowed}
    if name == "newest":
        return own
    return {package: specifier.replace(">=", "==").split(",")[0] for package, specifier in own.items()}


def build(name: str, packages: Mapping[str, str]) -> Path:
    """Create the environment; return its interpreter.

    Raises:
        NotBuiltError: pip has no such versions, they do not fit together, or others or none are found.
    """
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    needs = {package: f"{package}{specifier}" for package, specifier in packages.items()}
    print(f"{name}: installing", *needs.values(), flush=True)
    alone = [] if name == "oldest-torch" else [needs.pop(package) for package in ON_TORCH]
    install(python, list(needs.values()))
    install(python, alone, "--no-deps")
    borrow(python)
    found = installed_versions(python, list(dict.fromkeys([*packages, *BORROWED])))
    if missing := [package for package, version in found.items() if version is None]:
        raise NotBuiltError(f"{', '.join(missing)}: not found beside {sys.executable}, which lends it")
    print(f"{name}: found", *(f"{package} {version}" for package, version in found.items()), flush=True)
    wrong = [
        package
        for package, specifier in packages.items()
        if specifier.startswith("==") and not same_version(found[package], specifier[2:])
    ]
    if wrong:
        raise NotBuiltError(f"{', '.join(wrong)}: another version than the lower bound is imported")
    return python


def install(python: Path, what: Sequence[str], *options: str) -> None:
    """Run pip for another interpreter, with wheels only: old versions are not compiled."""
    if not what:
        return
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-qq", "--no-input"]
    result = subprocess.run(
        [*command, "--disable-pip-version-check", "--only-binary", ":all:", *options, *what],
        env=alone(),
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no message"]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise NotBuiltError(f"pip: {(errors or lines)[-1]}")


def alone() -> dict[str, str]:
    """Return the user's environment variables without those that add or redirect packages."""
    others = ("PYTHONPATH", "PYTHONHOME", "PIP_CONSTRAINT", "PIP_TARGET", "PIP_PREFIX")
    own = {name: value for name, value in os.environ.items() if name not in others}
    return {**own, "PIP_USER": "0"}


def borrow(python: Path) -> None:
    """Make the environment find missing packages where this interpreter does, start-up files included."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    result = subprocess.run([python, "-c", code], env=alone(), capture_output=True, text=True, check=True)
    own = result.stdout.strip()
    # More than one if the interpreter itself borrows, from the system or the user's folder.
    lenders = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    lines = [f"import site; site.addsitedir({lender!r})\n" for lender in lenders]
    Path(own, "borrowed.pth").write_text("".join(lines), encoding="utf-8")


def installed_versions(python: Path, packages: Sequence[str]) -> dict[str, str | None]:
    """Return {package: the version that the environment finds, or None}."""
    code = """
import importlib.metadata, json, sys
found = dict.fromkeys(sys.argv[1:])
for name in found:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
    command = [python, "-c", code, *packages]
    result = subprocess.run(command, env=alone(), capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def same_version(one: str, other: str) -> bool:
    """Return whether versions are the same, as 1.24 and 1.24.0, or 2.4.0 and 2.4.0+cpu."""
    shorten = re.compile(r"(\.0)*(\+.*)?$")
    return shorten.sub("", one) == shorten.sub("", other)


def run_tests(python: Path) -> int:
    """Run the tests; return 0 if all passed, else 1. A missing test file is a failure too."""
    environment = {**alone(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [python, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", *TESTS]
    return int(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
