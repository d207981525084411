"""Commands that are shown to be typed: how to go on, and what comes next."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def shell_command(script: str | Path, *words: str | Path) -> str:
    """The line that runs a script with the Python that is running now."""
    return shlex.join([python(), str(script), *map(str, words)])


def python() -> str:
    """`python` where a shell finds this Python under that name, else its path."""
    found = shutil.which("python")
    if not found:
        return sys.executable
    # Environments link to one interpreter; what is installed belongs to the folder.
    files, folders = (found, sys.executable), (Path(found).parent, Path(sys.executable).parent)
    return "python" if os.path.samefile(*files) and os.path.samefile(*folders) else sys.executable
