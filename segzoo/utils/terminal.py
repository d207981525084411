"""The two standard outputs as they are: of any encoding, and perhaps closed by a reader."""

import contextlib
import io
import logging
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import TextIO, cast

# As a shell reports a program that SIGPIPE has ended.
CLOSED_PIPE_STATUS = 128 + 13
# As for every file that cannot be written.
REFUSED_OUTPUT_STATUS = 2


def quietly(main: Callable[[], int]) -> int:
    """Run a program and return its exit status; end it without a word where nobody reads its output any more.

    An output that cannot be written, as on a full disk, is one line, and ends the program with status 2.

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
    except OSError as error:
        if error.filename is not None or not report_refused_outputs():
            raise  # another file
        return REFUSED_OUTPUT_STATUS
    finally:
        # Whatever the program ends with, --help too: an exit status of 0 would hide the loss.
        if report_refused_outputs():
            sys.exit(REFUSED_OUTPUT_STATUS)
        flush_outputs()


class ScreenHandler(logging.StreamHandler):
    """A log on the screen. A training goes on when nobody reads it any more, or when it cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  its name in `logging`
        refused = isinstance(sys.exc_info()[1], OSError) and (
            silence_closed_pipes() or report_refused_outputs()
        )
        if not refused:
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
            cast(io.TextIOWrapper, stream).reconfigure(errors="backslashreplace")


def silence_closed_pipes() -> bool:
    """Send standard outputs that nobody reads any more to nowhere; return whether there were any."""
    closed = [stream for stream in _outputs() if _is_closed_pipe(stream)]
    for stream in closed:
        _send_to_nowhere(stream)
    return bool(closed)


def report_refused_outputs() -> bool:
    """Say which standard outputs cannot be written and send them to nowhere; return whether one was."""
    refused = False
    for stream in _outputs():
        try:
            stream.flush()
        except BrokenPipeError:
            continue
        except OSError as error:
            _send_to_nowhere(stream)
            refused = True
            name = "output" if stream is sys.stdout else "error"
            reason = f"{error.strerror}; free some space, or send it elsewhere"
            sys.stderr.write(f"error: the standard {name} cannot be written: {reason}\n")
    return refused


def _send_to_nowhere(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    # What waits in the buffer goes there, too; at the end of the process it would be an error again.
    with contextlib.suppress(OSError):
        stream.flush()


def flush_outputs() -> None:
    """Write what the standard outputs still hold, and be silent where nobody reads it."""
    for stream in _outputs():
        try:
            stream.flush()
        except BrokenPipeError:
            if not silence_closed_pipes():
                raise


def _outputs() -> Iterator[TextIO]:
    """Those that are text files; tests and notebooks put other things in their place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.closed:
            yield stream


def _is_closed_pipe(stream: TextIO) -> bool:
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
