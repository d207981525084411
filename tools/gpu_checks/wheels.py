"""Packages that a machine without a network lacks, as wheels, which another machine makes."""

import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# What images for machine learning often lack of segzoo's requirements, Detectron2's, and the tests'.
USUALLY_MISSING = (
    *("fvcore", "iopath", "yacs", "termcolor", "omegaconf", "antlr4-python3-runtime", "hydra-core"),
    *("cloudpickle", "portalocker", "pycocotools", "panopticapi-lite", "submitit", "hotcoco", "timm"),
)
# The modules of segzoo's requirements that the sections import.
MODULES = (
    *("torch", "torchvision", "detectron2", "fvcore", "iopath", "matplotlib", "numba", "numpy", "cv2"),
    *("PIL", "pycocotools", "yaml", "safetensors", "scipy", "tabulate", "tensorboard", "termcolor", "timm"),
    *("tqdm", "yacs"),
)
_PIP = (sys.executable, "-m", "pip")


def make(folder: Path, names: Sequence[str]) -> None:
    """Write wheels of the packages and of Detectron2, for this interpreter's version and platform.

    Raises:
        subprocess.CalledProcessError: pip failed; it has printed why.
    """
    versions = REPOSITORY / "requirements" / "constraints.txt"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([*_PIP, "wheel", "-q", "--no-deps", "-c", versions, "-w", folder, *names], check=True)
    detectron2 = [sys.executable, REPOSITORY / "tools" / "install_detectron2.py", "--wheel", folder]
    subprocess.run(detectron2, check=True)


def install(wheels: Path, folder: Path, seconds: float) -> list[str]:
    """Install those wheels into a folder whose packages this machine lacks, in at most some seconds.

    Returns:
        what was not installed and why, one line each.
    """
    until = time.monotonic() + seconds
    files = [file for file in sorted(wheels.glob("*.whl")) if not _is_installed(file)]
    if not files or not _install(files, folder, until):
        return []
    # One that does not fit this machine stops all of them.
    problems = ((file, _install([file], folder, until)) for file in files)
    return [f"{file.name}: {problem}" for file, problem in problems if problem]


def missing_modules() -> list[str]:
    """Return which of MODULES cannot be found."""
    return [name for name in MODULES if importlib.util.find_spec(name) is None]


def _is_installed(wheel: Path) -> bool:
    # Names are compared as pip does.
    name = re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _install(files: Sequence[Path], folder: Path, until: float) -> str:
    """Return "", pip's last line, or that no time was left."""
    options = ["-q", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", str(folder)]
    command = [*_PIP, "install", *options, *map(str, files)]
    left = max(until - time.monotonic(), 0.0)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=left)
    except subprocess.TimeoutExpired:
        return "not installed: no time was left"
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["pip failed"]
    return lines[-1].strip() if done.returncode else ""
