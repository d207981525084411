"""The entry point of `segzoo` and of `python -m segzoo`, which runs a sub-command with its arguments."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from segzoo.utils.commands import program
from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

from .commands import COMMANDS, COMMANDS_OF_SCRIPTS, ELSEWHERE
from .errors import report_errors
from .interrupts import end, report_early_interrupts


def run_program() -> None:
    """Run `segzoo` with the words of the command line, and end the process."""
    report_early_interrupts()
    end(main())


@report_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run `segzoo` with `arguments`; return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words else "--help"
    if name == "help" and words[1:]:
        name, words = words[1], [*words[1:], "--help"]
    if name in ("-h", "--help", "help"):
        print(overview())
        return 0
    if name == "--version":
        print(f"segzoo {importlib.import_module('segzoo').__version__}")
        return 0
    return load(name).main(words[1:])


def load(name: str):
    """Import the module of a sub-command.

    Raises:
        InputError: there is no such sub-command.
    """
    if name in ELSEWHERE:
        raise InputError(f"segzoo {name}: {ELSEWHERE[name]}")
    if name not in COMMANDS:
        same = COMMANDS_OF_SCRIPTS.get(Path(name).stem.replace("-", "_"))
        close = f"; did you mean {same}?" if same else did_you_mean(name, COMMANDS)
        what = "option" if name.startswith("-") else "command"
        raise InputError(f"unknown {what} {name}{close}; see {program()} --help")
    return importlib.import_module(f".{COMMANDS[name].module}", __package__)


def overview() -> str:
    """Return the text of `segzoo --help`."""
    shown, width = program(), max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {shown} COMMAND [options] [KEY VALUE ...]",
            "",
            "Semantic, panoptic, instance and entity segmentation: one code base and model zoo.",
            "",
            "commands:",
            *lines,
            "",
            f"{shown} COMMAND --help explains a command and shows examples.",
            "Exit status: 0 done, 1 a check found problems, 2 wrong input.",
        ]
    )


if __name__ == "__main__":
    run_program()
