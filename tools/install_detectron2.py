"""Install Detectron2 into the Python environment that runs this file, without compiling anything.

    python tools/install_detectron2.py                     # GitHub where it answers, else PyPI
    python tools/install_detectron2.py --source compiled   # upstream's own build, with its C++/CUDA operators

Detectron2 is not on PyPI under its own name. Two sources of its Python files are used, both pinned:

- github: upstream's main at a tested commit;
- pypi:   the sdist `pb1-detectron2==0.6`, the release v0.6 byte by byte, without the C++ sources.

Either is installed as the distribution `detectron2`, with PointRend, DeepLab and Panoptic-DeepLab under
`detectron2.projects` and the model zoo's configurations, as upstream's build does it. The compiled operators
(rotated boxes, old deformable convolution) are missing then; `segzoo.compat` covers for them.
An existing installation is kept, unless --force is given.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REPOSITORY = "https://github.com/facebookresearch/detectron2"
COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"  # main of 2026-06-06, run through segzoo's tests
SDIST = "pb1-detectron2==0.6"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
SECONDS_TO_ANSWER = 8
SECONDS_TO_FETCH = 180

PROJECTS = {
    "point_rend": "PointRend/point_rend",
    "deeplab": "DeepLab/deeplab",
    "panoptic_deeplab": "Panoptic-DeepLab/panoptic_deeplab",
}

# Upstream's requirements, less its pins of black and iopath, and less what only Caffe2 used.
PYPROJECT = """\
[build-system]
requires = ["setuptools>=77.0.3"]
build-backend = "setuptools.build_meta"

[project]
name = "detectron2"
version = "{version}"
description = "Detectron2's Python files, without compiled operators"
license-files = ["LICENSE"]
dependencies = [
    "Pillow>=7.1", "matplotlib", "pycocotools>=2.0.2", "termcolor>=1.1", "yacs>=0.1.8", "tabulate",
    "cloudpickle", "tqdm>4.29.0", "tensorboard", "fvcore>=0.1.5,<0.1.6", "iopath>=0.1.7",
    "omegaconf>=2.1,<2.4", "hydra-core>=1.1", "packaging",
]
[tool.setuptools.packages.find]
include = ["detectron2*"]
[tool.setuptools.package-data]
"detectron2.model_zoo" = ["configs/**/*.yaml", "configs/**/*.py"]
"""


class InstallError(Exception):
    """The reason why the installation failed and the remedy, in one line."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", choices=["auto", "github", "pypi", "compiled"], default="auto")
    parser.add_argument("--tree", type=Path, help="a detectron2 source folder to install instead")
    parser.add_argument("--sdist", type=Path, help=f"{SDIST} as a file, downloaded before")
    parser.add_argument("--constraint", type=Path, help="a file for pip's --constraint")
    parser.add_argument("--force", action="store_true", help="replace an existing detectron2")
    parser.add_argument("--wheel", type=Path, metavar="FOLDER", help="only write a wheel into this folder")
    arguments = parser.parse_args()
    try:
        install(arguments)
    except InstallError as error:
        print(f"detectron2: {error}", file=sys.stderr)
        return 1
    return 0


def install(arguments: argparse.Namespace) -> None:
    if importlib.util.find_spec("detectron2") and not arguments.force and not arguments.wheel:
        print(f"detectron2 {installed_version()} is installed and is kept (--force replaces it)")
        return
    if not importlib.util.find_spec("torch"):
        raise InstallError("torch is not installed in this environment; install torch and torchvision first")
    if arguments.source == "compiled":
        pip_install([f"git+{REPOSITORY}@{COMMIT}"], arguments.constraint)
        print(f"detectron2 {installed_version()}: installed from GitHub, compiled")
        return
    with tempfile.TemporaryDirectory(prefix="detectron2-") as folder:
        tree, version = find_tree(arguments, Path(folder))
        build = Path(folder) / "build"
        arrange(tree, build, version)
        if arguments.wheel:
            options = ["-qq", "--no-deps", "--no-build-isolation", "--wheel-dir", str(arguments.wheel)]
            if pip(["wheel", *options, str(build)]).returncode:
                raise InstallError("pip could not write a wheel, see above")
            print(f"detectron2 {version}: a wheel, Python files only, in {arguments.wheel}")
            return
        pip_install([str(build)], arguments.constraint)
    print(f"detectron2 {version}: installed, Python files only")


def find_tree(arguments: argparse.Namespace, folder: Path) -> tuple[Path, str]:
    """Return a folder with Detectron2's sources, and the version to install them as."""
    if arguments.tree:
        return arguments.tree, "0.6+local"
    if arguments.sdist:
        return unpack(arguments.sdist, folder), "0.6"
    if arguments.source != "pypi":
        if github_answers():
            return fetch_github(folder), f"0.6+git.{COMMIT[:8]}"
        if arguments.source == "github":
            raise InstallError(f"{REPOSITORY} does not answer; use --source pypi")
    return unpack(download_sdist(folder), folder), "0.6"


def github_answers() -> bool:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        subprocess.run(
            ["git", "ls-remote", REPOSITORY, "HEAD"],
            env=environment,
            timeout=SECONDS_TO_ANSWER,
            capture_output=True,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def fetch_github(folder: Path) -> Path:
    tree = folder / "github"
    git = ["git", "-C", str(tree)]
    try:
        subprocess.run(["git", "init", "-q", str(tree)], check=True)
        fetch = [*git, "fetch", "-q", "--depth", "1", REPOSITORY, COMMIT]
        subprocess.run(fetch, check=True, timeout=SECONDS_TO_FETCH)
        subprocess.run([*git, "checkout", "-q", "FETCH_HEAD"], check=True)
    except subprocess.SubprocessError as error:
        raise InstallError(
            f"{REPOSITORY} answers, but fetching {COMMIT[:8]} failed ({error}); use --source pypi"
        ) from error
    return tree


def download_sdist(folder: Path) -> Path:
    """Download the sdist through pip, and so from the index that the user has configured."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    # pip runs the sdist's setup.py for its metadata, and that imports torch: hence no isolation.
    command = [
        "download",
        "-qq",
        "--no-deps",
        "--no-build-isolation",
        "--no-binary",
        ":all:",
        "--require-hashes",
    ]
    result = pip([*command, "-d", str(folder), "-r", str(requirements)], capture_output=True)
    files = list(folder.glob("*.tar.gz"))
    if result.returncode or not files:
        lines = result.stderr.strip().splitlines() or ["no message"]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise InstallError(
            f"pip could not download {SDIST}: {reason} (pip 26.3 and later refuse this file: "
            "python -m pip install 'pip<26.3'; or download it yourself and give --sdist FILE)"
        )
    return files[0]


def unpack(sdist: Path, folder: Path) -> Path:
    if not sdist.is_file():
        raise InstallError(f"{sdist}: no such file")
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != SDIST_SHA256:
        raise InstallError(f"{sdist}: sha256 is {found}, expected {SDIST_SHA256}; download {SDIST} again")
    with tarfile.open(sdist) as archive:
        archive.extractall(
            folder / "sdist", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )
    return next((folder / "sdist").iterdir())


def arrange(tree: Path, build: Path, version: str) -> None:
    """Arrange the Python files as upstream's setup.py installs them, with our own packaging metadata."""
    if not (tree / "detectron2" / "engine").is_dir():
        raise InstallError(f"{tree}: expected Detectron2's source folder, with detectron2/engine in it")
    package = build / "detectron2"
    shutil.copytree(
        tree / "detectron2", package, ignore=shutil.ignore_patterns("csrc", "__pycache__", "*.so")
    )
    for name, source in PROJECTS.items():
        shutil.copytree(tree / "projects" / source, package / "projects" / name, dirs_exist_ok=True)
    if (tree / "configs").is_dir():
        configs = package / "model_zoo" / "configs"
        shutil.rmtree(configs, ignore_errors=True)
        shutil.copytree(tree / "configs", configs)
    shutil.copy(tree / "LICENSE", build)
    (build / "pyproject.toml").write_text(PYPROJECT.format(version=version), encoding="utf-8")


def pip_install(what: list[str], constraint: Path | None) -> None:
    options = ["--constraint", str(constraint)] if constraint else []
    if pip(["install", "-qq", "--no-build-isolation", "--force-reinstall", "--no-deps", *what]).returncode:
        raise InstallError("pip failed, see above; setuptools 77.0.3 or later and wheel must be installed")
    # Again without --no-deps, which installs missing requirements and reinstalls nothing.
    importlib.invalidate_caches()
    needs = importlib.metadata.requires("detectron2") or []
    needs = [need for need in needs if "extra ==" not in need]
    if needs and pip(["install", "-qq", *options, *needs]).returncode:
        raise InstallError("pip could not install what detectron2 needs, see above")


def pip(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pip", *command], text=True, check=False, **options)


def installed_version() -> str:
    try:
        return importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return "(version unknown)"


if __name__ == "__main__":
    terminal = Path(__file__).resolve().parent.parent / "segzoo" / "utils" / "terminal.py"
    sys.exit(runpy.run_path(str(terminal))["run_quietly"](main))
