"""Imported first by the tools: Ctrl-C while the libraries are imported, for seconds, is a line, too."""

import os
import sys
from pathlib import Path
from types import TracebackType


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt) and "--debug" not in sys.argv:
        print("error: interrupted", file=sys.stderr, flush=True)
        os._exit(128 + 2)
    else:
        sys.__excepthook__(kind, error, trace)


# Not where a tool is a module of another program.
if Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parent:
    sys.excepthook = _report
