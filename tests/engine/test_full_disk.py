"""A disk that is full or becomes read-only: one line, and nothing written is lost."""

import contextlib
import os
import re
import resource
import subprocess
import tempfile
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segzoo.checkpoint import SegzooCheckpointer, read_checkpoint
from segzoo.utils.errors import InputError
from tests.engine import warm
from tests.engine.toy_training import ToyTrainer, assert_same_weights, metrics, run_toy, toy_cfg, weights

CHANGES = {"MODEL__MASK_FORMER__DROPOUT": 0.1}


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    while folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk, left: int) -> None:
    """Fill the disk up to `left` free bytes."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(disk / "filler", (disk / "filler").stat().st_size - left)


def make_read_only(disk) -> None:
    """Mount the disk read-only on top of itself, as files on it are open."""
    subprocess.run(["mount", "--bind", str(disk), str(disk)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(disk)], check=True)


def filling(disk, left: int, at: int) -> type[ToyTrainer]:
    """Return a trainer whose disk is full from iteration `at` on."""

    class FillingTrainer(ToyTrainer):
        def run_step(self):
            if self.iter == at:
                fill(disk, left)
            super().run_step()

    return FillingTrainer


@pytest.mark.parametrize(
    ("left", "period", "message"),
    [
        # Nothing more can be written: metrics.json or TensorBoard fails when it needs another block.
        (0, 40, r"^OUTPUT_DIR: .*/out.* cannot be written: No space left on device \(0\.0 MiB free\); free "),
        # There is room for records, not for a checkpoint.
        (
            16384,
            4,
            r"^.*/out/model_0000007\.pth cannot be written: No space left on device \(about 0\.0 MiB needed, "
            r"0\.0 MiB free\); free some space, or choose another folder; "
            r"--resume continues from model_0000003\.pth$",
        ),
    ],
)
def test_a_full_disk_ends_a_training_in_one_line_and_it_resumes_when_there_is_space(
    disk, tmp_path, left, period, message
):
    out = disk / "out"
    last = f"model_{period - 1:07d}.pth"
    changes = {**CHANGES, "SOLVER__CHECKPOINT_PERIOD": period, "SOLVER__MAX_ITER": 2 * period + 2}
    with pytest.raises(InputError, match=message) as error:
        run_toy(toy_cfg(out, **changes), trainer_class=filling(disk, left, at=period + 1))
    assert "\n" not in str(error.value)
    assert [path.name for path in out.glob("*model*")] == [last]
    assert (out / "last_checkpoint").read_text() == last
    read_checkpoint(out / last, verify=True)

    (disk / "filler").unlink()
    resumed = run_toy(toy_cfg(out, **changes), resume=True)
    assert resumed.start_iter == period
    run_toy(toy_cfg(tmp_path / "whole", **changes))
    assert_same_weights(weights(out), weights(tmp_path / "whole"))
    assert metrics(out) == metrics(tmp_path / "whole")
    shown = EventAccumulator(str(out), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in shown.Scalars("total_loss")] == list(range(2 * period + 2))


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_full_or_read_only_disk_is_refused_before_training(disk, how):
    if how == "full":
        (disk / "out").mkdir()
        fill(disk, 0)
        message = (
            r"^OUTPUT_DIR .*/out cannot be written: No space left on device .*; free some space, or choose "
            "another folder$"
        )
    else:
        run_toy(toy_cfg(disk / "out", SOLVER__MAX_ITER=4))
        make_read_only(disk)
        message = (
            r"^OUTPUT_DIR .*/out cannot be written: Read-only file system .*; make it writable, or "
            "choose another one$"
        )
    before = {path: path.read_bytes() for path in (disk / "out").iterdir()}
    with pytest.raises(InputError, match=message):
        run_toy(toy_cfg(disk / "out"), trainer_class=None)
    left = {path: path.read_bytes() for path in (disk / "out").iterdir() if path.name != ".lock"}
    assert left == {path: content for path, content in before.items() if path.name != ".lock"}


def test_a_disk_that_becomes_read_only_ends_the_training_in_one_line(disk):
    class TurningTrainer(ToyTrainer):
        def run_step(self):
            if self.iter == 5:
                make_read_only(disk)
            super().run_step()

    with pytest.raises(InputError, match=r"^OUTPUT_DIR: .* cannot be written: Read-only file system"):
        run_toy(toy_cfg(disk / "out"), trainer_class=TurningTrainer)
    read_checkpoint(disk / "out" / "model_0000003.pth", verify=True)


def train_as_nobody(cfg) -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    run_toy(cfg)


@pytest.mark.skipif(getattr(os, "getuid", lambda: 1)() != 0, reason="only root can become another user")
def test_a_folder_of_another_user_is_refused_in_one_line(tmp_path):
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "out")
        folder.mkdir()
        for path in (Path(root), folder):
            path.chmod(0o755)
        started = warm.start(tmp_path / "output", train_as_nobody, toy_cfg(folder))
        assert started.status() == 2, started.output
        assert re.fullmatch(
            rf"error: OUTPUT_DIR {folder} cannot be written: Permission denied \([\d.]+ MiB free\); make "
            r"it writable, or choose another one\n",
            started.output,
        )
        assert not list(folder.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no such limits here")
def test_a_limit_for_the_size_of_files_is_explained_and_leaves_the_checkpoint_before(tmp_path):
    import torch

    model = torch.nn.Linear(100, 100)
    checkpointer = SegzooCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    before = (tmp_path / "model_0000001.pth").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"File too large .*ulimit -f.* from model_0000001\.pth$"):
            checkpointer.save("model_0000003", iteration=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]
    assert (tmp_path / "model_0000001.pth").read_bytes() == before
    assert SegzooCheckpointer(model, str(tmp_path)).resume_or_load("") == {"iteration": 1}
