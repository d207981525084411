"""Reporting Ctrl-C in one line, also while libraries are imported, and ending the user's shell loop."""

import atexit
import contextlib
import os
import signal
import sys
from types import TracebackType
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT


def end(status: int) -> NoReturn:
    """End this process with an exit status; after Ctrl-C, by the signal SIGINT.

    A shell shows status 130 for it, and only then ends the loop or script that has started the command.
    """
    if status == INTERRUPTED:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError, ValueError):  # None, closed
                stream.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.kill(os.getpid(), signal.SIGINT)
    sys.exit(status)


def report_early_interrupts() -> None:
    """Report Ctrl-C in one line before a command handles it. For the entry point of a program only."""
    sys.excepthook = _report


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt) and "--debug" not in sys.argv:
        print("error: interrupted", file=sys.stderr, flush=True)
        end(INTERRUPTED)
    else:
        sys.__excepthook__(kind, error, trace)
