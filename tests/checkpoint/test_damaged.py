"""Damaged checkpoints and last_checkpoint files are reported, and the newest readable one is resumed."""

import logging
import os
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from segzoo.checkpoint import DamagedFileError, SegzooCheckpointer, read_checkpoint
from segzoo.utils.errors import InputError

CONTENT = {"best": 0.25, "names": ["sky", "road"], "momentum": torch.arange(6.0)}


def saved(folder: Path, *names: str, keep: int = 0) -> SegzooCheckpointer:
    """Checkpoints by their names, in this order; `iteration` in each is its place in it."""
    checkpointer = SegzooCheckpointer(nn.Linear(3, 2), str(folder), keep=keep)
    for place, name in enumerate(names):
        checkpointer.save(name, iteration=place, **CONTENT)
        # A file system may count time in seconds.
        os.utime(folder / f"{name}.pth", (1e9 + 10 * place,) * 2)
    return checkpointer


def resumed(folder: Path) -> int:
    return SegzooCheckpointer(nn.Linear(3, 2), str(folder)).resume_or_load("", resume=True)["iteration"]


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "last_checkpoint does not name a file; taking the newest checkpoint"),
        (b"\n", "last_checkpoint does not name a file; taking the newest checkpoint"),
        (b"\0" * 17, "last_checkpoint does not name a file; taking the newest checkpoint"),
        (b"\xff\xfe\x80model", "last_checkpoint does not name a file; taking the newest checkpoint"),
        (b"model_00", "model_00 cannot be read: No such file or directory; trying the checkpoint before it"),
        (b"model_0000011.pth", "model_0000011.pth cannot be read: No such file"),
        (b".", "cannot be read: Is a directory"),
        (b"x" * 5000, "cannot be read: File name too long"),
        (b"config.yaml", "config.yaml is not a checkpoint"),
    ],
)
def test_a_useless_last_checkpoint_file_is_ignored(tmp_path, caplog, content, message):
    saved(tmp_path, "model_0000003", "model_0000007")
    (tmp_path / "config.yaml").write_text("TASK: semantic")
    (tmp_path / "last_checkpoint").write_bytes(content)
    assert resumed(tmp_path) == 1
    (warning,) = warnings(caplog)
    assert message in warning
    assert "\n" not in warning


@pytest.mark.parametrize(
    ("names", "broken", "expected"),
    [
        (("model_0000003", "model_0000007", "model_final"), ("model_final",), 1),
        (("model_0000003", "model_0000007", "model_final"), ("model_final", "model_0000007"), 0),
        # The best checkpoint is complete as well.
        (("model_0000003", "model_best", "model_0000007"), ("model_0000007",), 1),
        # A run that was made longer: the end of the first one is older than what came after it.
        (("model_0000003", "model_final", "model_0000011"), ("model_0000011",), 1),
        # Numbers of an earlier, longer training in the same folder do not make it the newer one.
        (("model_0089999", "model_0000003", "model_0000007"), ("model_0000007",), 1),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "removed", "other content"])
def test_the_newest_readable_checkpoint_is_resumed(tmp_path, caplog, names, broken, expected, damage):
    saved(tmp_path, *names)
    for name in broken:
        file = tmp_path / f"{name}.pth"
        if damage == "removed":
            file.unlink()
        else:
            times = (file.stat().st_atime, file.stat().st_mtime)
            file.write_bytes(b"<!DOCTYPE html>" if damage == "other content" else file.read_bytes()[:-40])
            os.utime(file, times)
    assert resumed(tmp_path) == expected
    if damage == "removed":
        assert len(warnings(caplog)) == 1
    else:
        assert [name in text for name, text in zip(broken, warnings(caplog), strict=True)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    saved(folder, "model_0000003")
    return folder / "model_0000003.pth"


def test_no_flipped_bit_goes_unnoticed(tmp_path, whole):
    content, file = whole.read_bytes(), tmp_path / "flipped.pth"
    good = read_checkpoint(whole)
    places = random.Random(0).sample(range(len(content)), 600)
    messages = []
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        file.write_bytes(flipped)
        try:
            found = read_checkpoint(file, verify=True)
        except DamagedFileError as error:
            messages.append(str(error))
            continue
        # Dates, padding and other bytes that are not read.
        assert found.rest.keys() == good.rest.keys(), place
        assert found.rest["names"] == good.rest["names"], place
        for name, weight in good.weights.items():
            assert torch.equal(found.weights[name], weight), place
        assert torch.equal(found.rest["momentum"], good.rest["momentum"]), place
    assert len(messages) > 100
    assert all(message.startswith(f"{file} ") and "\n" not in message for message in messages)


def test_no_cut_goes_unnoticed(tmp_path, whole):
    content, file = whole.read_bytes(), tmp_path / "cut.pth"
    for length in [*range(0, len(content), 37), *range(len(content) - 30, len(content))]:
        file.write_bytes(content[:length])
        with pytest.raises(DamagedFileError, match=r"cut\.pth is (empty|truncated|not a checkpoint)"):
            read_checkpoint(file, verify=True)


@pytest.mark.parametrize("keep", [1, 2])
def test_at_every_moment_of_a_run_there_is_a_good_checkpoint(tmp_path, monkeypatch, keep):
    # The training before has left a damaged one, with a number that this one only comes to later.
    checkpointer = saved(tmp_path, "model_0000003", "model_0000007")
    newest = tmp_path / "model_0000007.pth"
    newest.write_bytes(newest.read_bytes()[:500])
    os.utime(newest, (1e9 + 10,) * 2)
    checkpointer.keep = keep
    seen = []

    def look_after(change):
        def changed(*arguments, **options):
            result = change(*arguments, **options)
            seen.append(resumed(tmp_path))
            return result

        return changed

    monkeypatch.setattr(os, "replace", look_after(os.replace))
    monkeypatch.setattr(Path, "unlink", look_after(Path.unlink))
    for number in (5, 6, 7, 8, 9):
        checkpointer.save(f"model_{number:07d}", iteration=number)
    assert seen == sorted(seen)
    assert set(seen) == {5, 6, 7, 8, 9}
    monkeypatch.undo()
    left = [f"model_{number:07d}.pth" for number in (8, 9)][-keep:]
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == left


def test_pickled_code_does_not_fall_back_on_an_older_checkpoint(tmp_path):
    saved(tmp_path, "model_0000003", "model_0000007")
    torch.save({"model": nn.Linear(3, 2)}, tmp_path / "model_0000007.pth")
    with pytest.raises(InputError, match=r"model_0000007\.pth contains pickled .*--trust-checkpoint"):
        resumed(tmp_path)
