"""Log short lines to the screen, and everything to OUTPUT_DIR/log.txt."""

import contextlib
import logging
import shutil
import sys
from collections.abc import Sequence
from logging.handlers import WatchedFileHandler
from pathlib import Path

from termcolor import colored

from .terminal import ScreenHandler, allow_any_character

LOGGED_PACKAGES = ("segzoo", "detectron2", "fvcore")
# Detectron2's lines on serializing a dataset, at every evaluation: for log.txt only.
QUIET_ON_SCREEN = "detectron2.data.common"
# Fields that a line too wide for its terminal omits first, in this order.
_DISPENSABLE = ("compute_time:", "max_mem:", "data_time:", "time:", "img/s:", "lr:")


def setup_logging(output_dir: Path | None, rank: int = 0) -> None:
    """Send the log to the screen (rank 0) and to OUTPUT_DIR/log.txt, and nowhere else."""
    handlers: list[logging.Handler] = []
    if rank == 0 and sys.stdout is not None:  # closed, as by >&-
        allow_any_character()
        screen = ScreenHandler(sys.stdout)
        screen.setLevel(logging.INFO)
        screen.addFilter(lambda record: record.levelno > logging.INFO or record.name != QUIET_ON_SCREEN)
        screen.setFormatter(_ScreenFormatter(sys.stdout.isatty()))
        handlers.append(screen)
    if output_dir is not None:
        name = "log.txt" if rank == 0 else f"log.txt.rank{rank}"
        file = _LogFile(output_dir / name, encoding="utf-8", errors="backslashreplace")
        file.setFormatter(
            logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S")
        )
        handlers.append(file)
    for package in LOGGED_PACKAGES:
        package_logger = logging.getLogger(package)
        package_logger.setLevel(logging.DEBUG)
        package_logger.propagate = False
        for old in list(package_logger.handlers):
            package_logger.removeHandler(old)
            old.close()
        for handler in handlers:
            package_logger.addHandler(handler)


class _LogFile(WatchedFileHandler):
    """Handler of log.txt that ignores a full disk: only metrics.json and checkpoints stop a training.

    If the file was removed, a new one is written.
    """

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # the folder was removed as well
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  its name in `logging`
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _ScreenFormatter(logging.Formatter):
    """Formatter of short lines: time, level if it is a warning or worse, and message.

    On a terminal lines are colored, and lines of fields are fitted to its width.
    """

    def __init__(self, colored: bool):
        super().__init__("%(message)s", datefmt="%m/%d %H:%M:%S")
        self._colored = colored

    def format(self, record: logging.LogRecord) -> str:
        parts = [self._paint(f"[{self.formatTime(record, self.datefmt)}]", "green")]
        if record.levelno >= logging.WARNING:
            parts.append(self._paint(record.levelname, "red"))
        message = super().format(record)
        if self._colored and hasattr(record, "fields"):
            indent = " " * len(f"[{self.formatTime(record, self.datefmt)}] ")
            width = shutil.get_terminal_size().columns - len(indent)
            message = f"\n{indent}".join(fitted(record.fields, width))
        return " ".join([*parts, message])

    def _paint(self, text: str, color: str) -> str:
        return colored(text, color, force_color=True) if self._colored else text


def log_fields(logger: logging.Logger, fields: Sequence[str]) -> None:
    """Log a line of fields; a narrow terminal shows fewer of them, or more lines."""
    logger.info("%s", "  ".join(fields), extra={"fields": tuple(fields)})


def fitted(fields: Sequence[str], width: int) -> list[str]:
    """Return the fields in lines of at most `width` characters, or longer for a longer field."""
    kept = list(fields)
    for start in _DISPENSABLE:
        if len("  ".join(kept)) <= width:
            break
        kept = [field for field in kept if not field.startswith(start) or field.endswith(")")]
    lines: list[str] = []
    for field in kept:
        if lines and len(lines[-1]) + 2 + len(field) <= width:
            lines[-1] += f"  {field}"
        else:
            lines.append(field)
    return lines
