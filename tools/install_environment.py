"""Create `.venv`, the environment that `make` uses: `make venv` runs this file with the system's python3.

If `.venv` is complete, nothing is done. Otherwise these are installed, in this order, since each step needs
the previous one: setuptools; torch and torchvision (a CPU build, or a CUDA build if nvidia-smi finds a GPU);
segzoo itself, editable, with its requirements at the versions of requirements/constraints.txt; Detectron2;
and the reference implementations of the tests (requirements/peers.txt), without which tests are skipped.

Environment variables:
    TORCH=cpu|cuda                            instead of looking for a GPU
    DETECTRON2=auto|github|pypi|compiled      where Detectron2 comes from (tools/install_detectron2.py)
"""

import argparse
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# Written last, so that an interrupted installation is continued.
STAMP = VENV / "complete.txt"
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
PEERS = ROOT / "requirements" / "peers.txt"
# Imported at every start of the environment's Python.
STARTUP = ROOT / "tools" / "segzoo_startup.py"
# Files that the environment depends on; it is updated when one of them changes.
INPUTS = [
    *(CONSTRAINTS, PEERS, STARTUP, ROOT / "pyproject.toml", ROOT / "tools" / "install_detectron2.py"),
    Path(__file__).resolve(),
]

OLDEST_PYTHON = (3, 10)
# The version that the constraints were made for; others get the newest versions that pyproject.toml allows.
PINNED_PYTHON = (3, 11)
TORCH_VERSION = "2.13.0"
TORCHVISION_VERSION = "0.28.0"
# For the tests. It declares an older numpy than it works with, so it cannot be a requirement everywhere.
PANOPTICAPI = "panopticapi-lite==0.2.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SECONDS_TO_ANSWER = 5
CHOICES = {"TORCH": ("cpu", "cuda"), "DETECTRON2": ("auto", "github", "pypi", "compiled")}


class InstallError(Exception):
    """The reason why the installation failed and the remedy, in one line."""


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    try:
        if sys.version_info < OLDEST_PYTHON:
            found = ".".join(map(str, sys.version_info[:3]))
            raise InstallError(
                f"python {found} is too old, 3.10 is needed; make venv BASE_PYTHON=/path/to/python3.11"
            )
        choices = {name: choice(name) for name in CHOICES}
        if not is_complete(choices):
            VENV.mkdir(exist_ok=True)
            # Two `make` at a time: the second waits for the first, and then finds the work done.
            with open(VENV / ".lock", "w", encoding="utf-8") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not is_complete(choices):
                    build(choices)
    except InstallError as error:
        print(f"make venv: {error}", file=sys.stderr)
        return 1
    return 0


def choice(name: str) -> str:
    value = os.environ.get(name, "")
    if value and value not in CHOICES[name]:
        raise InstallError(f"{name} is {value!r}, expected one of {', '.join(CHOICES[name])}")
    return value


def fingerprint() -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in INPUTS)).hexdigest()


def is_complete(choices: dict[str, str]) -> bool:
    """Return whether `.venv` was completed for the present requirements and the explicit choices."""
    if not (STAMP.is_file() and works(PYTHON)):
        return False
    recorded = dict(line.split("=", 1) for line in STAMP.read_text(encoding="utf-8").splitlines())
    expected = {"requirements": fingerprint(), **{name: value for name, value in choices.items() if value}}
    return all(recorded.get(name) == value for name, value in expected.items())


def works(python: Path) -> bool:
    """Return whether an interpreter runs; a link may lead to one that has been removed."""
    return python.is_file() and subprocess.run([python, "-c", ""], check=False).returncode == 0


def build(choices: dict[str, str]) -> None:
    started = time.monotonic()
    before = STAMP.read_text(encoding="utf-8").splitlines() if STAMP.is_file() else []
    STAMP.unlink(missing_ok=True)
    torch = choices["TORCH"] or ("cuda" if has_gpu() else "cpu")
    detectron2 = choices["DETECTRON2"] or "auto"
    print(f"make venv: installing into {VENV} (once; {'2' if torch == 'cpu' else '6'} GB, a few minutes)")

    say(1, "Python environment")
    if not works(PYTHON):
        create_venv()
    pip("install", "setuptools>=77.0.3,<82", "wheel", why="setuptools")
    if (
        python_output("import pip; print(tuple(map(int, pip.__version__.split('.')[:2])) >= (26, 3))")
        == "True"
    ):
        pip("install", "pip<26.3", why="a pip that still reads Detectron2's source archive")

    say(2, f"torch {TORCH_VERSION} ({torch})")
    install_torch(torch)

    say(3, "requirements")
    pip(
        "install",
        *constraint(),
        "--no-build-isolation",
        "-e",
        f"{ROOT}[test,lint,docs]",
        why="segzoo's requirements",
    )

    pip("install", "--no-deps", PANOPTICAPI, why=PANOPTICAPI)

    say(4, "Detectron2")
    command = [PYTHON, ROOT / "tools" / "install_detectron2.py", "--source", detectron2, *constraint()]
    if choices["DETECTRON2"] and f"DETECTRON2={detectron2}" not in before:
        command.append("--force")
    if subprocess.run(command, env=pip_environment(), check=False).returncode:
        raise InstallError("Detectron2 could not be installed, see above and INSTALL.md")

    install_startup()

    say(5, "check")
    if conflicts := package_conflicts():
        print("\n".join(conflicts), file=sys.stderr)
        raise InstallError("the installed packages do not fit together, see above; rm -r .venv and try again")

    say(6, "reference implementations of the tests")
    if not try_pip("install", "--no-deps", "--no-build-isolation", "-r", str(PEERS)):
        print("      not installed; the tests that need them will be skipped", flush=True)
    stamp = f"requirements={fingerprint()}\nTORCH={torch}\nDETECTRON2={detectron2}\n"
    STAMP.write_text(stamp, encoding="utf-8")
    print(f"make venv: done after {time.monotonic() - started:.0f} s")


def say(step: int, what: str) -> None:
    print(f"[{step}/6] {what}", flush=True)


def has_gpu() -> bool:
    if not shutil.which("nvidia-smi"):
        return False
    try:
        result = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0 and "GPU" in result.stdout


def create_venv() -> None:
    result = subprocess.run([sys.executable, "-m", "venv", VENV], capture_output=True, text=True, check=False)
    if result.returncode or not works(PYTHON):
        raise InstallError(
            f"{sys.executable} -m venv failed: on Debian and Ubuntu `apt install python3-venv`, elsewhere "
            "give another interpreter, `make venv BASE_PYTHON=/path/to/python3.11`, or an environment that "
            "has everything, `PYTHON=/path/to/python make ...`"
        )


def install_torch(kind: str) -> None:
    """Install a torch and a torchvision that fit together, keeping those of the right versions.

    On a CPU, PyPI's plain torch would bring gigabytes of CUDA libraries; so the CPU build is requested by its
    full version first, from wherever pip is configured to look, then from PyTorch's own index.
    """
    torch, torchvision = f"torch=={TORCH_VERSION}", f"torchvision=={TORCHVISION_VERSION}"
    if kind == "cuda":
        # `===` takes PyPI's build even where pip also finds a CPU build, which counts as newer.
        if not try_pip("install", f"torch==={TORCH_VERSION}", torchvision):
            pip("install", torch, torchvision, why="torch")
        if python_output("import torch; print(torch.version.cuda)") == "None":
            raise InstallError(
                "a GPU was found, but pip installed a torch without CUDA; set TORCH=cpu to accept it"
            )
        return
    if platform.system() == "Darwin":
        pip("install", torch, torchvision, why="torch")
        return
    if try_pip("install", f"{torch}+cpu"):
        # With --no-deps, since the torch that it names must not be replaced. PyPI's torchvision is a CUDA
        # build whose operators do not load here: segzoo.compat covers for that, and install_startup has it
        # imported in time.
        if not try_pip("install", "--no-deps", f"{torchvision}+cpu"):
            pip("install", "--no-deps", torchvision, why="torchvision")
        return
    if answers(CPU_INDEX):
        cpu_builds = ("--extra-index-url", CPU_INDEX, f"{torch}+cpu", f"{torchvision}+cpu")
        if try_pip("install", *cpu_builds):
            return
    print("      no CPU build of torch found; taking PyPI's, with its CUDA libraries (5 GB)", flush=True)
    pip("install", torch, torchvision, why="torch")


def install_startup() -> None:
    """Make torchvision and Detectron2 importable before segzoo there, as in a notebook's first cell."""
    packages = Path(python_output("import sysconfig; print(sysconfig.get_path('purelib'))"))
    shutil.copy(STARTUP, packages)
    (packages / f"{STARTUP.stem}.pth").write_text(f"import {STARTUP.stem}\n", encoding="utf-8")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/torch/", timeout=SECONDS_TO_ANSWER) as response:
            return response.status == 200
    except OSError:
        return False


def constraint() -> list[str]:
    version = python_output("import sys; print(sys.version_info[:2])")
    if version == str(PINNED_PYTHON):
        return ["--constraint", str(CONSTRAINTS)]
    print(f"      the pinned versions are for Python {PINNED_PYTHON}; {version} gets the newest that fit")
    return []


def python_output(code: str) -> str:
    result = subprocess.run(
        [PYTHON, "-c", code], env=pip_environment(), capture_output=True, text=True, check=False
    )
    return result.stdout.strip()


def package_conflicts() -> list[str]:
    """Return the lines of `pip check`, except those on packages installed without their requirements."""
    command = [PYTHON, "-m", "pip", "check"]
    result = subprocess.run(command, env=pip_environment(), capture_output=True, text=True, check=False)
    if not result.returncode:
        return []
    alone = [PANOPTICAPI, *PEERS.read_text(encoding="utf-8").splitlines()]
    peers = [line.split("==")[0] for line in alone if "==" in line]
    lines = (result.stdout + result.stderr).splitlines()
    return [line for line in lines if line.split(" ", 1)[0] not in peers]


def pip(*command: str, why: str) -> None:
    if not try_pip(*command, quiet=False):
        raise InstallError(f"pip could not install {why}, see above; is the package index reachable?")


def try_pip(*command: str, quiet: bool = True) -> bool:
    output = subprocess.DEVNULL if quiet else None
    arguments = [PYTHON, "-m", "pip", *command, "-qq"]
    return subprocess.run(arguments, env=pip_environment(), stderr=output, check=False).returncode == 0


def pip_environment() -> dict[str, str]:
    """Return the user's settings of pip (index, proxy, certificates), without those that leave `.venv`."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")
    }
    return {**environment, "PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


if __name__ == "__main__":
    sys.exit(main())
