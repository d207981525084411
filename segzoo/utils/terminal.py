"""The two standard outputs as they are: of any encoding, and perhaps closed by a reader."""

import contextlib
import errno
import io
import logging
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

# As a shell reports a program that SIGPIPE has ended.
CLOSED_PIPE_STATUS = 128 + 13


def quietly(main: Callable[[], int]) -> int:
    """Run a program and return its exit status; end it without a word where nobody reads its output any more.

    This file needs nothing but Python's own library: some tools run where segzoo cannot be imported.
    """
    open_missing()
    allow_any_character()
    try:
        return main()
    except BrokenPipeError:
        if not silence_closed_pipes():
            raise  # another pipe
        return CLOSED_PIPE_STATUS
    finally:
        flush_outputs()


class ScreenHandler(logging.StreamHandler):
    """A log on the screen. A training goes on, without a word, when nobody reads it any more."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  its name in `logging`
        if not (isinstance(sys.exc_info()[1], OSError) and silence_closed_pipes()):
            super().handleError(record)


def open_missing() -> None:
    """Send standard outputs that the program was started without (`>&-`, `2>&-`) to nowhere.

    Libraries write to them, and the first file that is opened would take their numbers, with all that is
    written to them.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the smallest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  until the end


def allow_any_character() -> None:
    """Write characters that the encoding of a standard output lacks as escapes; they would be an error."""
    for stream in _outputs():
        is_utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
        # On UTF-8 surrogateescape writes the odd bytes of a file name as they are.
        if stream.errors == "strict" or (stream.errors == "surrogateescape" and not is_utf8):
            stream.reconfigure(errors="backslashreplace")


def silence_closed_pipes() -> bool:
    """Send standard outputs that nobody reads any more to nowhere; return whether there were any."""
    closed = [stream for stream in _outputs() if _is_closed_pipe(stream)]
    for stream in closed:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        # What waits in the buffer goes there, too; at the end of the process it would be an error again.
        with contextlib.suppress(OSError):
            stream.flush()
    return bool(closed)


def flush_outputs() -> None:
    """Write what the standard outputs still hold, and be silent where nobody reads it."""
    for stream in _outputs():
        try:
            stream.flush()
        except OSError as error:
            if not _means_closed(error) or not silence_closed_pipes():
                raise


def _outputs() -> Iterator[TextIO]:
    """Those that are text files; tests and notebooks put other things in their place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.closed:
            yield stream


def _means_closed(error: OSError) -> bool:
    # Windows says EINVAL.
    return isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL)


def _is_closed_pipe(stream: TextIO) -> bool:
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return False
    if not hasattr(select, "poll"):
        try:
            stream.flush()
        except OSError as error:
            return _means_closed(error)
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
