"""Output to terminals of any encoding, and to readers that go away."""

import io
import logging
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from segzoo.cli.errors import report_errors
from segzoo.utils.logging import setup_logging
from segzoo.utils.terminal import ScreenHandler, allow_any_character, run_quietly

ROOT = Path(__file__).resolve().parents[2]
NAME = "stra\u00dfe \u6c7d\u8f66"


def test_a_program_without_outputs_runs_and_keeps_its_files(tmp_path):
    """Its first file gets neither the number nor the words of the standard error."""
    program = (
        "import os, sys; from segzoo.utils.terminal import run_quietly\n"
        f"def main():\n    with open({str(tmp_path / 'a')!r}, 'w') as file:\n"
        "        os.write(2, b'of a library'); sys.stderr.write('x'); print('x'); file.write('mine')\n"
        "    return 3\n"
        "sys.exit(run_quietly(main))"
    )
    command = 'exec "$0" -c "$1" <&- >&- 2>&-'
    done = subprocess.run(["bash", "-c", command, sys.executable, program], cwd=ROOT, check=False)
    assert done.returncode == 3
    assert (tmp_path / "a").read_text() == "mine"


@contextmanager
def closed_pipe():
    """Inside, the standard output is a pipe without a reader. (pytest sets its own after fixtures.)"""
    reading, writing = os.pipe()
    os.close(reading)
    before = sys.stdout
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        sys.stdout = pipe
        try:
            yield pipe
        finally:
            sys.stdout = before


def stream(encoding, errors="strict"):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
@pytest.mark.parametrize(("encoding", "written"), [("ascii", b"stra\\xdfe \\u6c7d\\u8f66"), ("cp1252", None)])
def test_characters_that_a_terminal_lacks_are_replaced(monkeypatch, encoding, errors, written):
    terminal = stream(encoding, errors)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert report_errors(lambda arguments: print(NAME) or 0)([]) == 0
    found = terminal.buffer.getvalue().strip()
    assert found == (written or NAME[:6].encode("cp1252") + rb" \u6c7d\u8f66")


def test_utf_8_is_left_alone(monkeypatch):
    terminal = stream("utf-8", "surrogateescape")
    monkeypatch.setattr(sys, "stdout", terminal)
    allow_any_character()
    print(NAME, "odd \udcff name", flush=True)
    assert terminal.buffer.getvalue().strip() == NAME.encode() + b" odd \xff name"


def test_the_log_of_a_training_goes_to_any_terminal_and_as_utf_8_to_its_file(monkeypatch, tmp_path):
    terminal = stream("ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    setup_logging(tmp_path)
    try:
        logging.getLogger("segzoo.test").info("class %s", NAME)
        assert rb"class stra\xdfe" in terminal.buffer.getvalue()
        assert f"class {NAME}" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    finally:
        monkeypatch.undo()
        setup_logging(None)


def test_a_reader_that_goes_away_ends_a_tool_silently(capfd):
    @report_errors
    def main(arguments):
        for _ in range(10000):
            print("a line of which many fill the buffer")
        return 0

    with closed_pipe() as pipe:
        assert main([]) == 128 + 13
        # What is left at the end of the process goes nowhere, too.
        pipe.write("end")
        pipe.flush()
    assert capfd.readouterr() == ("", "")


FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


@needs_full
@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "--help"],
        ["analyze", "--help"],
        ["--version"],
        ["doctor"],
        ["prepare", "--list"],
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_on_a_full_disk_is_one_line(words, unbuffered):
    """Buffered it is written when the program ends, unbuffered by each `print`."""
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-S", "-m", "segzoo", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "No space left on device; free some space" in done.stderr
    assert ("the standard output cannot be written" in done.stderr) == (not unbuffered)
    assert done.stderr.count("\n") == 1


@needs_full
def test_training_continues_when_its_log_cannot_be_shown(capfd):
    logger = logging.getLogger("segzoo.test_of_full_disks")
    logger.propagate = False
    before = sys.stdout
    with FULL.open("w") as full:
        sys.stdout = full
        try:
            logger.addHandler(ScreenHandler(full))
            for _ in range(3):
                logger.warning("iter: 19")
        finally:
            sys.stdout = before
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: the standard output cannot be written")
    assert said.err.count("\n") == 1


def test_printing_help_to_a_closed_pipe_is_not_an_error(capfd):
    def main():
        print("usage")
        raise SystemExit(0)

    with closed_pipe(), pytest.raises(SystemExit):
        run_quietly(main)
    assert capfd.readouterr() == ("", "")


def test_a_closed_pipe_keeps_the_exit_status(capfd):
    with closed_pipe():
        assert report_errors(lambda arguments: print("1 problem") or 1)([]) == 1
    assert capfd.readouterr() == ("", "")


def test_training_continues_when_its_output_is_closed(capfd):
    logger = logging.getLogger("segzoo.test_of_closed_pipes")
    logger.propagate = False
    with closed_pipe() as pipe:
        logger.addHandler(ScreenHandler(pipe))
        for _ in range(3):
            logger.warning("iter: 19")
    assert capfd.readouterr() == ("", "")


def test_other_errors_of_a_log_are_reported(capfd):
    logger = logging.getLogger("segzoo.test_of_errors")
    logger.propagate = False
    logger.addHandler(ScreenHandler(sys.stdout))
    logger.warning("%d", "no number")
    assert "Logging error" in capfd.readouterr().err


@pytest.mark.parametrize("tool", ["tools/doctor.py", "datasets/make_shapes.py"])
def test_tools_that_run_without_segzoo_are_quiet_too(tool, tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / tool), "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


def test_no_tool_is_started_in_another_way():
    """Parts of tools have no `__main__`; of those that are not quiet two are started by `make` and CI."""
    files = [*ROOT.glob("tools/*.py"), *ROOT.glob("datasets/*.py")]
    texts = {file.stem: file.read_text(encoding="utf-8") for file in files}
    commands = {name: text for name, text in texts.items() if '__name__ == "__main__"' in text}
    quiet = re.compile("@report_errors|quietly|run_script")
    noisy = {name for name, text in commands.items() if not quiet.search(text)}
    assert noisy == {"gpu_check", "install_environment", "try_versions"}
    assert len(commands) > 25
