"""Handle standard outputs of any encoding, closed by their reader or on a full disk."""

import contextlib
import io
import logging
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import TextIO, cast

# A shell's exit status for a program ended by SIGPIPE.
CLOSED_PIPE_STATUS = 128 + 13
# The exit status for any file that cannot be written.
REFUSED_OUTPUT_STATUS = 2


def run_quietly(main: Callable[[], int]) -> int:
    """Run a program and return its exit status; end it silently if the reader of its output has closed it.

    If an output cannot be written, as on a full disk, one line says so and the program exits with status 2.

    This file needs only the standard library: some tools run where segzoo cannot be imported.
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
        # However the program ends, also after --help: an exit status of 0 would hide the lost output.
        if report_refused_outputs():
            sys.exit(REFUSED_OUTPUT_STATUS)
        flush_outputs()


class ScreenHandler(logging.StreamHandler):
    """Handler of the log on the screen that lets training continue if the output is closed or refused."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  its name in `logging`
        refused = isinstance(sys.exc_info()[1], OSError) and (
            silence_closed_pipes() or report_refused_outputs()
        )
        if not refused:
            super().handleError(record)


def open_missing() -> None:
    """Open standard streams that the program was started without (`>&-`, `2>&-`) on /dev/null.

    Libraries write to them, and otherwise the first file opened would take their descriptors and output.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the smallest free descriptor
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  until the end


def allow_any_character() -> None:
    """Make standard outputs write characters that their encoding lacks as escapes instead of raising."""
    for stream in _outputs():
        is_utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
        # With UTF-8, surrogateescape writes invalid bytes of a file name as they are.
        if stream.errors == "strict" or (stream.errors == "surrogateescape" and not is_utf8):
            cast(io.TextIOWrapper, stream).reconfigure(errors="backslashreplace")


def silence_closed_pipes() -> bool:
    """Redirect standard outputs whose reader is closed to /dev/null; return whether there were any."""
    closed = [stream for stream in _outputs() if _is_closed_pipe(stream)]
    for stream in closed:
        _send_to_null(stream)
    return bool(closed)


def report_refused_outputs() -> bool:
    """Report standard outputs that cannot be written, redirect them to /dev/null, return if any were."""
    refused = False
    for stream in _outputs():
        try:
            stream.flush()
        except BrokenPipeError:
            continue
        except OSError as error:
            _send_to_null(stream)
            refused = True
            name = "output" if stream is sys.stdout else "error"
            reason = f"{error.strerror}; free some space, or redirect it"
            sys.stderr.write(f"error: the standard {name} cannot be written: {reason}\n")
    return refused


def _send_to_null(stream: TextIO) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
    # Flush the buffer there, or it would raise again at the end of the process.
    with contextlib.suppress(OSError):
        stream.flush()


def flush_outputs() -> None:
    """Flush the standard outputs, silently if their reader is closed."""
    for stream in _outputs():
        try:
            stream.flush()
        except BrokenPipeError:
            if not silence_closed_pipes():
                raise


def _outputs() -> Iterator[TextIO]:
    """Yield the standard outputs that are text streams; tests and notebooks replace them."""
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
