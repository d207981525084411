"""Commands shown in messages run with the Python that showed them."""

import shlex
import sys

import pytest

from segzoo.utils.commands import shell_command


@pytest.mark.parametrize(
    ("on_path", "expected"), [("own", "python"), ("other", "own/python"), ("none", "own/python")]
)
def test_a_command_names_the_python_that_is_running(tmp_path, monkeypatch, on_path, expected):
    for name in ("own", "other", "none"):
        (tmp_path / name).mkdir()
    # Two environments of one interpreter, with other packages each.
    for link in ("own/python", "own/python3", "other/python"):
        (tmp_path / link).symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path / on_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "own" / "python"))
    wanted = expected if on_path == "own" else str(tmp_path / expected)
    assert shlex.split(shell_command("a tool.py", tmp_path / "b c", "d")) == [
        wanted,
        "a tool.py",
        str(tmp_path / "b c"),
        "d",
    ]
    if on_path == "own":
        monkeypatch.setattr(sys, "executable", str(tmp_path / "own" / "python3"))
        assert shell_command("a.py") == "python a.py"
