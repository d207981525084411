"""Following a job: the lines of its logs as they come, and at the end how its runs stand."""

import time
from pathlib import Path

from segzoo.utils.commands import command_line

from .files import Run, log_file
from .status import OPEN, standings, table

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_QUESTIONS = 5.0


class LogReader:
    """Prints what is new in a run's log, each line after the run's name where there are several runs."""

    def __init__(self, path: Path, prefix: str):
        self._path = path
        self._prefix = prefix
        self._position = 0
        self._rest = b""

    def show(self, *, all_of_it: bool = False) -> None:
        """Prints whole lines, and with `all_of_it` an unfinished last one."""
        if self._path.is_file():
            with self._path.open("rb") as file:
                file.seek(self._position)
                new = file.read()
            self._position += len(new)
            *lines, self._rest = (self._rest + new).split(b"\n")
            if all_of_it and self._rest:
                lines, self._rest = [*lines, self._rest], b""
            for line in lines:
                print(f"{self._prefix}{line.decode(errors='replace')}", flush=True)


def watch(folder: Path) -> int:
    """Follows the logs until all runs have ended, or Ctrl-C; returns 1 if a run has ended but is not done."""
    lines = standings(folder)
    readers = [_reader(folder, line.run, len(lines)) for line in lines]
    asked, notes = time.monotonic(), {}
    try:
        while any(line.state in OPEN for line in lines):
            for line, reader in zip(lines, readers, strict=True):
                if line.state == "waiting" and line.note and notes.get(line.run.index) != line.note:
                    print(f"{line.run.name}: waiting ({line.note})", flush=True)
                    notes[line.run.index] = line.note
                reader.show()
            time.sleep(SECONDS_BETWEEN_LOOKS)
            if time.monotonic() - asked >= SECONDS_BETWEEN_QUESTIONS:
                lines, asked = standings(folder), time.monotonic()
    except KeyboardInterrupt:
        again = command_line("submit", "--status", folder, "--watch")
        print(f"\nthe job goes on; {again} follows it again")
        return 0
    for reader in readers:
        reader.show(all_of_it=True)
    print(f"\n{table(lines)}")
    return 0 if all(line.state == "done" for line in lines) else 1


def _reader(folder: Path, run: Run, runs: int) -> LogReader:
    return LogReader(log_file(folder, run), f"{run.name}: " if runs > 1 else "")
