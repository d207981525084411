"""Imported first by the tools: Ctrl-C while the libraries are imported, for seconds, is a line, too."""

import atexit
import contextlib
import os
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import NoReturn

INTERRUPTED = 128 + signal.SIGINT


def end(status: int) -> NoReturn:
    """Ends this process with an exit status; one that Ctrl-C has ended dies of SIGINT.

    A shell shows status 130 for it, and only so ends the loop or the script that has started the tool.
    """
    if status == INTERRUPTED and os.name == "posix":
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError, ValueError):  # None, closed
                stream.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.kill(os.getpid(), signal.SIGINT)
    sys.exit(status)


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt) and "--debug" not in sys.argv:
        print("error: interrupted", file=sys.stderr, flush=True)
        end(INTERRUPTED)
    else:
        sys.__excepthook__(kind, error, trace)


# Not where a tool is a module of another program.
if Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parent:
    sys.excepthook = _report
