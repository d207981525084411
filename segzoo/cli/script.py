"""What the scripts in tools/ and datasets/ that stand for a sub-command do."""

import importlib
import sys
from pathlib import Path

from .commands import COMMANDS, OF_SCRIPTS
from .interrupts import end, report_early_interrupts

# Those of Detectron2's habit, and the one that needs no installation: they are here to stay.
KEPT = ("train", "predict", "submit", "prepare", "doctor")


def run_script(name: str, *words: str) -> None:
    """Run a sub-command as the script that stands for it is run, and end the process.

    Args:
        name: of the sub-command.
        words: come before those of the command line.
    """
    report_early_interrupts()
    script = Path(sys.argv[0])
    if name not in KEPT and "--help" not in sys.argv:
        print(f"{script.name} is now called `segzoo {OF_SCRIPTS.get(script.stem, name)}`", file=sys.stderr)
    module = importlib.import_module(f".{COMMANDS[name].module}", __package__)
    end(module.main([*words, *sys.argv[1:]]))
