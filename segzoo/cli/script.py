"""The entry point of the scripts in tools/ and datasets/ that run a sub-command."""

import importlib
import sys
from pathlib import Path

from .commands import COMMANDS, COMMANDS_OF_SCRIPTS
from .interrupts import end, report_early_interrupts

# Commands whose scripts stay: those with names of Detectron2, and the one that needs no installation.
KEPT = ("train", "predict", "submit", "prepare", "doctor")


def run_script(name: str, *words: str) -> None:
    """Run a sub-command for its script, and end the process.

    Args:
        name: name of the sub-command.
        words: arguments before those of the command line.
    """
    report_early_interrupts()
    script = Path(sys.argv[0])
    if name not in KEPT and "--help" not in sys.argv:
        command = COMMANDS_OF_SCRIPTS.get(script.stem, name)
        print(f"{script.name} is now called `segzoo {command}`", file=sys.stderr)
    module = importlib.import_module(f".{COMMANDS[name].module}", __package__)
    end(module.main([*words, *sys.argv[1:]]))
