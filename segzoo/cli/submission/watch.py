"""Following a job: the lines of its logs as they are written, and at the end the status of its runs."""

import time
from pathlib import Path

from segzoo.utils.commands import command_line

from .files import Run, log_file
from .status import OPEN, run_statuses, table

SECONDS_BETWEEN_READS = 1.0
SECONDS_BETWEEN_QUERIES = 5.0


class LogReader:
    """A reader that prints the new lines of a run's log.

    Args:
        prefix: printed before each line.
    """

    def __init__(self, path: Path, prefix: str):
        self._path = path
        self._prefix = prefix
        self._position = 0
        self._rest = b""

    def show(self, *, final: bool = False) -> None:
        """Print new complete lines, and with `final` an incomplete last one."""
        if self._path.is_file():
            with self._path.open("rb") as file:
                file.seek(self._position)
                new = file.read()
            self._position += len(new)
            *lines, self._rest = (self._rest + new).split(b"\n")
            if final and self._rest:
                lines, self._rest = [*lines, self._rest], b""
            for line in lines:
                print(f"{self._prefix}{line.decode(errors='replace')}", flush=True)


def watch(folder: Path) -> int:
    """Follow the logs until all runs have ended, or Ctrl-C; return 1 if a run has ended but is not done."""
    lines = run_statuses(folder)
    readers = [_reader(folder, line.run, len(lines)) for line in lines]
    queried, notes = time.monotonic(), {}
    try:
        while any(line.state in OPEN for line in lines):
            for line, reader in zip(lines, readers, strict=True):
                if line.state == "waiting" and line.note and notes.get(line.run.index) != line.note:
                    print(f"{line.run.name}: waiting ({line.note})", flush=True)
                    notes[line.run.index] = line.note
                reader.show()
            time.sleep(SECONDS_BETWEEN_READS)
            if time.monotonic() - queried >= SECONDS_BETWEEN_QUERIES:
                lines, queried = run_statuses(folder), time.monotonic()
    except KeyboardInterrupt:
        again = command_line("submit", "--status", folder, "--watch")
        print(f"\nthe job continues; {again} follows it again")
        return 0
    for reader in readers:
        reader.show(final=True)
    print(f"\n{table(lines)}")
    return 0 if all(line.state == "done" for line in lines) else 1


def _reader(folder: Path, run: Run, runs: int) -> LogReader:
    return LogReader(log_file(folder, run), f"{run.name}: " if runs > 1 else "")
