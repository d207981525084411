"""Reporting errors of the user in one line, with an exit status."""

import functools
import sys
from collections.abc import Callable, Sequence

from segzoo.compat import NO_DETECTRON2
from segzoo.utils.commands import program
from segzoo.utils.errors import InputError
from segzoo.utils.files import REMEDIES
from segzoo.utils.terminal import REFUSED_OUTPUT_STATUS, report_refused_outputs, run_quietly

from .interrupts import INTERRUPTED

Main = Callable[[Sequence[str]], int]

WRONG_INPUT = 2


def report_errors(main: Main) -> Main:
    """Make a command's `main(arguments) -> status` print a wrong input in one line, and end with status 2.

    Errors of the system (a full disk, a read-only folder) are reported alike, and so are Ctrl-C, with status
    130, and exceptions with an attribute `exit_status`. With --debug among the arguments, errors are raised.
    A closed pipe, as after `| head`, ends the command silently, and a terminal may have any encoding.

    Args:
        main: the function to decorate. Without arguments, it is called with those of the command line.
    """

    def in_lines(arguments: Sequence[str]) -> int:
        try:
            return main(arguments)
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, OSError) and error.filename is None and report_refused_outputs():
                return REFUSED_OUTPUT_STATUS
            line, found = _line_and_status(error)
            if line is None or "--debug" in arguments:
                raise
            print(f"error: {' '.join(line.split())}", file=sys.stderr)
            return found

    @functools.wraps(main)
    def wrapped(arguments: Sequence[str] | None = None) -> int:
        arguments = list(sys.argv[1:] if arguments is None else arguments)
        return run_quietly(lambda: in_lines(arguments))

    return wrapped


def _line_and_status(error: BaseException) -> tuple[str | None, int]:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, InputError):
        return str(error), WRONG_INPUT
    if isinstance(error, ModuleNotFoundError) and (line := describe_missing_module(error)):
        return line, WRONG_INPUT
    if isinstance(error, OSError):
        return describe_os_error(error), WRONG_INPUT
    found = getattr(error, "exit_status", None)
    return (None, 1) if found is None else (str(error), found)


def describe_missing_module(error: ModuleNotFoundError) -> str | None:
    """Return what to install; None for a module of segzoo itself."""
    name = (error.name or "").partition(".")[0]
    if name in ("", "segzoo"):
        return None
    if name == "detectron2":
        return NO_DETECTRON2
    return f"the package {name} is not installed; `{program()} doctor` says what is missing, and the remedy"


def describe_os_error(error: OSError) -> str | None:
    """Return what is wrong with a file or folder; None for other errors."""
    if error.errno not in REMEDIES:
        return None
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror}; {REMEDIES[error.errno]}"
