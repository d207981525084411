"""Two trainings on one machine at once: no ports, files or folders in common."""

import os
import shutil
import signal
import time
from argparse import Namespace
from pathlib import Path

import pytest
from detectron2.utils import comm

from segzoo.engine.output_lock import claimed
from segzoo.engine.run_folder import choose_output_dir, move_aside
from segzoo.utils.errors import InputError
from tests.engine import warm
from tests.engine.toy_training import ToyTrainer, metrics, run_toy, toy_cfg, weights


class WaitingTrainer(ToyTrainer):
    """A trainer that waits in iteration 2 until a file appears beside its folder."""

    def run_step(self):
        folder, patience = Path(self.cfg.OUTPUT_DIR), time.monotonic() + 60
        if self.iter == 2 and comm.is_main_process():
            (folder / "waiting").touch()
            while not folder.with_name("go").exists() and time.monotonic() < patience:
                time.sleep(0.01)
        super().run_step()


def train_when_told(cfg) -> None:
    run_toy(cfg, trainer_class=WaitingTrainer)


def train_in_two_processes(cfg) -> None:
    warm.launch_by_forking(train_when_told, 2, args=(cfg,))


def test_two_trainings_of_two_processes_each_run_side_by_side(tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    started = [
        warm.start(tmp_path / f"output{index}", train_in_two_processes, toy_cfg(folder, SEED=index))
        for index, folder in enumerate(folders)
    ]
    for folder, process in zip(folders, started, strict=True):
        process.wait_for(folder / "waiting")
    # Both are running.
    (tmp_path / "go").touch()
    assert [process.status() for process in started] == [0, 0], [process.output for process in started]
    for index, folder in enumerate(folders):
        run_toy(toy_cfg(tmp_path / f"alone{index}", SEED=index))
        for line, expected in zip(metrics(folder), metrics(tmp_path / f"alone{index}"), strict=True):
            assert line == pytest.approx(expected, rel=1e-4)


def test_a_second_training_in_the_same_folder_is_refused_and_changes_nothing(tmp_path):
    folder = tmp_path / "out"
    first = warm.start(tmp_path / "output", train_in_two_processes, toy_cfg(folder))
    first.wait_for(folder / "waiting")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(
        InputError,
        match=rf"^OUTPUT_DIR {folder}: another training writes there \(process \d+ on .+\); choose another ",
    ):
        run_toy(toy_cfg(folder, SEED=3), resume=True)
    second = warm.start(tmp_path / "output2", train_in_two_processes, toy_cfg(folder, SEED=3))
    assert second.status() == 2, second.output
    assert len(second.output.splitlines()) == 1
    assert "another training writes there" in second.output
    assert {path: path.read_bytes() for path in folder.iterdir()} == before

    (tmp_path / "go").touch()
    assert first.status() == 0, first.output
    run_toy(toy_cfg(tmp_path / "alone"))
    assert metrics(folder)[-1] == pytest.approx(metrics(tmp_path / "alone")[-1], rel=1e-4)
    # Now it is free.
    with claimed(folder):
        pass


def test_a_killed_training_leaves_its_folder_free(tmp_path):
    killed = warm.start(tmp_path / "output", train_when_told, toy_cfg(tmp_path / "out"))
    killed.wait_for(tmp_path / "out" / "waiting")
    os.kill(killed.process.pid, signal.SIGKILL)
    assert killed.status() == -signal.SIGKILL
    run_toy(toy_cfg(tmp_path / "out"), resume=True)
    assert weights(tmp_path / "out")


def hold(folder: Path, seconds: float) -> None:
    with claimed(folder):
        (folder / "held").touch()
        time.sleep(seconds)


def test_a_folder_in_which_a_training_writes_is_not_moved(tmp_path):
    folder = tmp_path / "run"
    holder = warm.start(tmp_path / "output", hold, folder, 60)
    holder.wait_for(folder / "held")
    with pytest.raises(InputError, match=r"another training writes there \(process \d+"):
        move_aside(folder)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "output"}
    assert (folder / "held").exists()
    holder.process.kill()
    holder.status()
    assert move_aside(folder) == tmp_path / "run.old-1"


def choose(folder: Path, output_dir: str) -> None:
    """Write OUTPUT_DIR and weights of one of two processes after the setup."""
    os.chdir(folder)
    cfg = toy_cfg(output_dir, MODEL__WEIGHTS="run/model_final.pth")
    args = Namespace(config_file="roads.yaml", opts=[], overwrite=True)
    choose_output_dir(cfg, args)
    (folder / f"process{comm.get_rank()}").write_text(f"{cfg.OUTPUT_DIR} {cfg.MODEL.WEIGHTS}")


def choose_in_two_processes(folder: Path, output_dir: str) -> None:
    warm.launch_by_forking(choose, 2, args=(folder, output_dir))


@pytest.mark.parametrize(
    ("given", "chosen", "left"),
    [
        ("", "output/roads/1 run/model_final.pth", {"run", "output"}),
        ("run", "run {}/run.old-1/model_final.pth", {"run", "run.old-1"}),
    ],
)
def test_one_process_chooses_the_folder_for_all(tmp_path, given, chosen, left):
    folder = tmp_path / "here"
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "model_final.pth").touch()
    process = warm.start(tmp_path / "log", choose_in_two_processes, folder, given)
    assert process.status() == 0, process.output
    assert [(folder / f"process{rank}").read_text() for rank in range(2)] == [chosen.format(folder)] * 2
    assert {path.name for path in folder.iterdir()} == {"process0", "process1", *left}
    assert [path.name for path in folder.glob("output/roads/*")] == ["1"] * (not given)


@pytest.mark.parametrize(("seconds", "patience"), [(1.0, 30.0), (30.0, 0.3)])
def test_a_lock_of_another_machine_is_waited_for(tmp_path, monkeypatch, seconds, patience):
    first = warm.start(tmp_path / "output", hold, tmp_path, seconds)
    first.wait_for(tmp_path / "held")
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    monkeypatch.setattr("segzoo.engine.output_lock._PATIENCE", patience)
    if patience > seconds:
        with claimed(tmp_path):
            assert first.status() == 0
        return
    with pytest.raises(
        InputError, match=r"another training writes there .*\(delete .*/\.lock if its machine"
    ):
        hold(tmp_path, 0)
    first.process.kill()
    # The message's remedy also works where the file server does not release the lock.
    (tmp_path / ".lock").unlink()
    hold(tmp_path, 0)


def test_without_file_locks_nothing_is_refused(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with claimed(tmp_path), claimed(tmp_path):
        pass


def try_to_claim(folder: Path) -> None:
    with claimed(folder):
        pass


def test_a_folder_that_is_created_again_is_claimed_again(tmp_path):
    with claimed(tmp_path / "out") as claim:
        claim.renew()
        shutil.rmtree(tmp_path / "out")
        claim.renew()
        assert warm.start(tmp_path / "output", try_to_claim, tmp_path / "out").status() == 2
    assert warm.start(tmp_path / "output", try_to_claim, tmp_path / "out").status() == 0


def test_a_folder_created_again_by_another_training_is_left_to_it(tmp_path):
    """Or its lock file was deleted, as the message advises for a training on a failed machine."""
    folder = tmp_path / "out"
    cfg = toy_cfg(folder)

    class Replaced(ToyTrainer):
        def before_step(self):
            super().before_step()
            if self.iter == 2:
                shutil.rmtree(folder)
                self.other = warm.start(tmp_path / "output", hold, folder, 60)
                self.other.wait_for(folder / "held")

    with pytest.raises(InputError, match=r"another training writes there \(process \d+"):
        run_toy(cfg, trainer_class=Replaced)
    assert not list(folder.glob("*.pth"))
    assert not (folder / "config.yaml").exists()
