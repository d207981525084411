"""The tests that need a GPU."""

import re
import subprocess
import sys
from pathlib import Path

from . import Rows, Settings
from .measuring import is_installed

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = (
    "tests/engine/test_on_gpu.py",
    "tests/engine/test_train_step.py",
    "tests/modeling/test_deformable_triton.py",
    "tests/modeling/test_deformable_forms.py",
    "tests/modeling/test_deform_conv.py",
    "tests/mask_classification/test_accelerators.py",
)
# Without those of these files that need no GPU and take long.
CHOSEN = "not interpreter and not without_a_gpu and not hopper and not takes_the_option"


def run(settings: Settings, rows: Rows) -> None:
    if not is_installed("pytest"):
        rows.add(tests="all", result="pytest is not installed")
        return
    failed = False
    for file in FILES[:2] if settings.small else FILES:
        # Without the repository's own options, with which a summary could be missing.
        options = ["-o", "addopts=", "-q", "-p", "no:cacheprovider", "-rf", "-k", CHOSEN]
        command = [sys.executable, "-m", "pytest", *options, file]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        print(done.stdout[-20000:], done.stderr[-2000:])
        lines = [line for line in done.stdout.splitlines() if re.search(r"\d+ (passed|failed|skipped)", line)]
        names = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
        rows.add(tests=file, result=lines[-1].strip("= ") if lines else "no result", failed="; ".join(names))
        failed |= done.returncode != 0
    if failed:
        raise SystemExit("tests failed")
