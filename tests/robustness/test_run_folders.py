"""The folder of a run, which never overwrites the results of an earlier run."""

import argparse
import multiprocessing
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from segzoo.config.version_keys import VERSION_KEYS
from segzoo.engine import default_setup
from segzoo.engine.distributed.signals import StoppedBySignal
from segzoo.engine.run_folder import (
    config_name,
    holds_training,
    is_finished,
    move_aside,
    move_training_aside,
    new_folder,
    remove_if_unused,
)
from segzoo.engine.saved_config import saved_config
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.engine.toy_training import run_toy, toy_cfg

CONFIG = "configs/semantic/shapes/pspnet_r18_quarter.yaml"
DEFAULT = Path("output/semantic/shapes/pspnet_r18_quarter")


def settled(output_dir="", weights="", config=CONFIG, opts=(), **flags):
    """Sets a run up as its command line says; returns OUTPUT_DIR and MODEL.WEIGHTS."""
    cfg = toy_cfg(output_dir, MODEL__WEIGHTS=str(weights))
    named = ["OUTPUT_DIR", str(output_dir)] if output_dir else []
    names = ("resume", "overwrite", "eval_only", "shard")
    args = argparse.Namespace(
        config_file=str(config), opts=[*opts, *named], **{name: flags.get(name, "") for name in names}
    )
    default_setup(cfg, args)
    return Path(cfg.OUTPUT_DIR), cfg.MODEL.WEIGHTS


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leave_training(folder, last="model_final.pth", iteration=9, **more):
    """What a training of ten iterations leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(f'{{"iteration": {iteration}, "total_loss": 1.0}}\n')
    (folder / "config.yaml").write_text("DATASETS: {TEST: []}\n")
    if last:
        (folder / last).write_bytes(b"weights")
        (folder / "last_checkpoint").write_text(last)
    for name, text in more.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(autouse=True)
def current_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (CONFIG, "semantic/shapes/pspnet_r18_quarter"),
        (f"/some/where/{CONFIG}", "semantic/shapes/pspnet_r18_quarter"),
        ("semantic/shapes/pspnet_r18_quarter", "semantic/shapes/pspnet_r18_quarter"),
        ("/home/me/my.roads.yaml", "my.roads"),
        ("../roads.yml", "roads"),
    ],
)
def test_a_configuration_gives_its_runs_their_name(file, name):
    assert config_name(file) == name


def test_a_run_without_output_dir_gets_the_next_number():
    assert settled()[0] == DEFAULT / "1"
    (DEFAULT / "7").mkdir()
    (DEFAULT / "eval-9").mkdir()
    assert settled()[0] == DEFAULT / "8"
    assert settled(config="/some/roads.yaml")[0] == Path("output/roads/1")
    # An OUTPUT_DIR of one's own stays.
    assert settled("mine")[0] == Path("mine")


def fail(cfg, end, kept=None, config=CONFIG, **flags):
    """Starts a run that ends at once; returns what was in its folder."""

    def start():
        with remove_if_unused(cfg):
            default_setup(cfg, argparse.Namespace(config_file=config, opts=[], **flags))
            if kept:
                Path(cfg.OUTPUT_DIR, kept).touch()
            before.update(content(Path(cfg.OUTPUT_DIR)))
            raise end

    before = {}
    with pytest.raises(type(end)):
        start()
    return before


@pytest.mark.parametrize("end", [InputError("wrong"), StoppedBySignal("stopped", signal.SIGINT)])
def test_a_start_that_fails_leaves_no_numbered_folder(end):
    settled()
    before = fail(toy_cfg(""), end)
    assert {Path("log.txt"), Path("config.yaml")} <= before.keys()
    assert [path.name for path in DEFAULT.iterdir()] == ["1"]


@pytest.mark.parametrize("said", ["run", "run/", "where/it/was"])
def test_a_failed_evaluation_with_the_configuration_of_a_run_leaves_the_run_as_it_was(said):
    """That configuration has an OUTPUT_DIR, which is not the one of the evaluation."""
    folder = leave_training(Path("run"))
    before = content(folder)
    cfg = toy_cfg(said, MODEL__WEIGHTS=str(folder / "model_final.pth"))
    written = fail(cfg, InputError("wrong"), config="run/config.yaml", eval_only=True)
    assert Path("log.txt") in written
    assert Path(cfg.OUTPUT_DIR) == folder / "eval-model_final-1"
    assert not Path(cfg.OUTPUT_DIR).exists()
    assert content(folder) == before


@pytest.mark.parametrize(
    ("given", "kept", "end"),
    [
        ("", "model_0000001.pth", InputError),
        ("", "notes.txt", InputError),
        ("", None, RuntimeError),  # its log has the traceback
        ("mine", None, InputError),
        ("./mine/", None, InputError),
    ],
)
def test_a_start_that_fails_removes_nothing_else(given, kept, end):
    cfg = toy_cfg(given)
    before = fail(cfg, end("wrong"), kept)
    assert content(Path(cfg.OUTPUT_DIR)) == before
    assert Path("log.txt") in before


def claim_folders(parent, queue):
    queue.put([str(new_folder(Path(parent))) for _ in range(20)])


def test_runs_that_start_together_get_folders_of_their_own(tmp_path, monkeypatch):
    # Each has looked at the folder before the others made theirs, every time.
    monkeypatch.setattr("segzoo.engine.run_folder._numbers", lambda *_: iter(()))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=claim_folders, args=(tmp_path / "runs", queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [folder for _ in workers for folder in queue.get(timeout=60)]
    for worker in workers:
        worker.join()
    assert sorted(found) == sorted(str(tmp_path / "runs" / str(n)) for n in range(1, 61))


@pytest.mark.parametrize("last", ["model_final.pth", "model_0000004.pth", ""])
def test_a_folder_with_a_training_is_refused_and_left_alone(last, tmp_path):
    folder = leave_training(tmp_path / "run", last)
    before = content(folder)
    with pytest.raises(InputError) as error:
        settled(folder)
    said = str(error.value)
    assert said.startswith(f"OUTPUT_DIR {folder} holds a training (")
    assert "--resume" in said
    assert "--overwrite" in said
    assert "run.old-<n>" in said
    assert (last or "no checkpoint") in said
    assert content(folder) == before
    # One of the remedies; the other is below.
    settled(folder, resume=True)
    after = content(folder)
    assert {name: after[name] for name in before if name.name != "config.yaml"} == {
        name: text for name, text in before.items() if name.name != "config.yaml"
    }


def test_a_log_or_an_evaluation_is_not_a_training(tmp_path):
    folder = tmp_path / "run"
    (folder / "inference").mkdir(parents=True)
    for name in ("log.txt", "config.yaml", "inference/results.json", "metrics.json"):
        (folder / name).write_text("")
    assert not holds_training(folder)
    assert settled(folder)[0] == folder


def test_overwrite_moves_the_training_and_deletes_nothing(tmp_path):
    folder = leave_training(tmp_path / "run", notes="mine")
    for number in (1, 2):
        before = content(folder)
        settled(folder, overwrite=True)
        left = content(tmp_path / f"run.old-{number}")
        assert {name: left[name] for name in before} == before
        assert not holds_training(folder)
        leave_training(folder, iteration=number)


def test_overwrite_follows_weights_that_move_with_the_folder(tmp_path):
    folder = leave_training(tmp_path / "run")
    output_dir, weights = settled(folder, folder / "model_final.pth", overwrite=True)
    assert output_dir == folder
    assert Path(weights) == tmp_path / "run.old-1" / "model_final.pth"
    assert Path(weights).read_bytes() == b"weights"


def test_overwrite_follows_links_to_and_from_the_folder(tmp_path):
    folder = leave_training(tmp_path / "run")
    (tmp_path / "elsewhere.pth").write_bytes(b"elsewhere")
    (folder / "link.pth").symlink_to(tmp_path / "elsewhere.pth")
    (tmp_path / "best.pth").symlink_to(folder / "model_final.pth")
    given = [
        folder / "link.pth",
        tmp_path / "best.pth",
        tmp_path / "elsewhere.pth",
        "https://a.org/b.pkl",
        "",
    ]
    found, notes = move_training_aside(folder, [str(path) for path in given])
    aside = tmp_path / "run.old-1"
    assert found == [str(aside / "link.pth"), str(aside / "model_final.pth"), *map(str, given[2:])]
    assert [Path(path).read_bytes() for path in found[:3]] == [b"elsewhere", b"weights", b"elsewhere"]
    assert notes == [
        f"--overwrite: the training that was in {folder} is now {aside}",
        f"MODEL.WEIGHTS has moved with it: {aside / 'link.pth'}",
        f"MODEL.WEIGHTS has moved with it: {aside / 'model_final.pth'}",
    ]


def test_overwrite_of_a_link_keeps_the_link_and_its_disk(tmp_path):
    real = leave_training(tmp_path / "disk" / "run")
    (tmp_path / "link").symlink_to(real)
    assert move_aside(tmp_path / "link") == tmp_path / "disk" / "run.old-1"
    assert (tmp_path / "link").is_symlink()
    assert list((tmp_path / "link").iterdir()) == []
    assert holds_training(tmp_path / "disk" / "run.old-1")


def test_a_link_to_nowhere_and_a_file_are_refused_as_what_they_are():
    Path("link").symlink_to("nowhere")
    Path("file").touch()
    with pytest.raises(
        InputError, match=r"^OUTPUT_DIR link: a link to \S*nowhere, which does not exist; make it"
    ):
        settled("link")
    Path("nowhere").mkdir()
    assert settled("link")[0] == Path("link")
    with pytest.raises(InputError, match=r"^OUTPUT_DIR file: a file, not a folder; choose another"):
        settled("file")


def test_overwrite_does_not_move_the_folder_it_runs_in(tmp_path, monkeypatch):
    leave_training(tmp_path / "run" / "inner")
    monkeypatch.chdir(tmp_path / "run" / "inner")
    for folder in (".", "..", tmp_path / "run"):
        with pytest.raises(
            InputError, match="cannot be moved while the command runs in it; change to another"
        ):
            move_aside(Path(folder))


def test_overwrite_of_a_mount_point_is_refused_in_one_line(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a disk cannot be mounted here")
    try:
        before = content(leave_training(folder))
        with pytest.raises(
            InputError, match=r"cannot be moved to disk\.old-1: .*; choose another OUTPUT_DIR$"
        ):
            move_aside(folder)
        assert {name: text for name, text in content(folder).items() if name.name != ".lock"} == before
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_resume_without_output_dir_takes_the_newest_unfinished_run(capsys):
    leave_training(DEFAULT / "2", "model_0000003.pth", 3)
    leave_training(DEFAULT / "10", "model_0000005.pth", 5)
    leave_training(DEFAULT / "11")
    (DEFAULT / "12").mkdir()  # It died before it had anything.
    leave_training(Path("output/semantic/shapes/other/13"), "model_0000005.pth", 5)
    assert settled(resume=True)[0] == DEFAULT / "10"
    said = capsys.readouterr().out
    assert re.search(
        r"--resume: continuing output/semantic/shapes/pspnet_r18_quarter/10 \(unfinished, last checkpoint "
        r"model_0000005\.pth, records up to iteration 5\)",
        said,
    )


def test_a_run_killed_before_it_named_its_checkpoint_is_resumed():
    folder = leave_training(DEFAULT / "2", "model_0000003.pth", 3)
    (folder / "last_checkpoint").unlink()
    assert settled(resume=True, eval_only=True)[1] == str(folder / "model_0000003.pth")
    assert not is_finished(folder)
    (folder / "model_0000003.pth").rename(folder / "model_final.pth")
    assert is_finished(folder)


def test_resume_without_output_dir_and_without_a_run_says_what_to_do():
    with pytest.raises(InputError, match=r"no unfinished training of .*; leave --resume out to start"):
        settled(resume=True)
    assert not Path("output").exists()
    leave_training(Path("output"))  # Detectron2's default, and segzoo's of before.
    with pytest.raises(InputError, match=r"\(output itself holds one: OUTPUT_DIR output\)"):
        settled(resume=True)
    leave_training(DEFAULT / "3")
    with pytest.raises(InputError, match=rf"{DEFAULT}/3, is finished; .*SOLVER\.MAX_ITER"):
        settled(resume=True)


@pytest.mark.parametrize("key", [None, *VERSION_KEYS])
def test_an_interrupted_quickstart_resumes(tmp_path, capsys, key):
    """Also with a path that the saved configuration has in full, and keys of another Detectron2."""
    import quickstart  # takes its time

    cfg = load_config(quickstart.CONFIG, ["MODEL.WEIGHTS", "some/weights.pth"])
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    if key:
        *path, leaf = key.split(".")
        node = cfg
        for name in path:
            node = node[name]
        node[leaf] = VERSION_KEYS[key]
    leave_training(tmp_path / "run", "model_0000003.pth", 3)
    (tmp_path / "run" / "config.yaml").write_text(saved_config(cfg))
    assert quickstart.make_room(cfg)
    assert "Resuming the interrupted quickstart" in capsys.readouterr().out
    cfg.SOLVER.MAX_ITER += 1
    assert not quickstart.make_room(cfg)
    assert holds_training(tmp_path / "run.old-1")


def test_a_training_whose_final_evaluation_is_missing_is_not_finished(tmp_path):
    folder = leave_training(tmp_path / "run")
    assert is_finished(folder)
    (folder / "config.yaml").write_text("DATASETS: {TEST: [toy_val]}\n")
    assert not is_finished(folder)
    (folder / "metrics.json").write_text('{"iteration": 3, "sem_seg/mIoU": 5}\n{"iteration": 9, "loss": 1}\n')
    assert not is_finished(folder)
    (folder / "metrics.json").write_text('{"iteration": 9, "loss": 1}\n{"iteration": 9, "sem_seg/mIoU": 5}\n')
    assert is_finished(folder)


def test_a_real_training_is_finished_and_one_of_a_shorter_life_is_not(tmp_path):
    class Died(BaseException):
        pass

    from tests.engine.toy_training import ToyTrainer

    class Dying(ToyTrainer):
        def after_step(self):
            super().after_step()
            if self.iter == 5:
                raise Died

    run_toy(toy_cfg(tmp_path / "whole", SOLVER__MAX_ITER=3))
    with pytest.raises(Died):
        run_toy(toy_cfg(tmp_path / "cut"), trainer_class=Dying)
    assert is_finished(tmp_path / "whole")
    assert holds_training(tmp_path / "cut")
    assert not is_finished(tmp_path / "cut")


def test_an_evaluation_writes_beside_its_weights_and_never_over_another(tmp_path):
    folder = leave_training(tmp_path / "run")
    weights = folder / "model_final.pth"
    before = content(folder)
    assert settled(weights=weights, eval_only=True)[0] == folder / "eval-model_final-1"
    assert settled(weights=weights, eval_only=True)[0] == folder / "eval-model_final-2"
    # The configuration of the run names the run's own folder.
    saved = folder / "config.yaml"
    cfg_dir = settled(weights=weights, eval_only=True, config=saved)[0]
    assert cfg_dir == folder / "eval-model_final-3"
    after = content(folder)
    assert {name: after[name] for name in before} == before
    # Shards meet.
    for _ in range(2):
        assert settled(weights=weights, eval_only=True, shard="1/2")[0] == folder / "eval-model_final"


def test_an_evaluation_of_an_address_gets_a_folder_of_its_own(tmp_path):
    assert settled(weights="https://a.org/b.pkl", eval_only=True)[0] == DEFAULT / "eval-1"
    assert settled(weights="hf://owner/name", eval_only=True)[0] == DEFAULT / "eval-2"
    leave_training(DEFAULT / "4", "model_0000003.pth", 3)
    output_dir, weights = settled(eval_only=True, resume=True)
    assert (output_dir, Path(weights)) == (
        DEFAULT / "4" / "eval-model_0000003-1",
        DEFAULT / "4" / "model_0000003.pth",
    )


def test_resuming_an_evaluation_without_a_checkpoint_says_what_to_do():
    folder = leave_training(Path("run"), last="")
    with pytest.raises(InputError, match=r"^--eval-only --resume: no checkpoint in run; .* MODEL\.WEIGHTS"):
        settled(config="run/config.yaml", eval_only=True, resume=True)
    # The remedies.
    assert settled(config="run/config.yaml", resume=True)[0] == folder
    (folder / "mine.pth").touch()
    weights = folder / "mine.pth"
    assert settled(weights=weights, config="run/config.yaml", eval_only=True)[0] == folder / "eval-mine-1"


def test_an_evaluation_into_the_folder_of_a_training_keeps_its_configuration(tmp_path):
    folder = leave_training(tmp_path / "run")
    before = (folder / "config.yaml").read_text()
    assert settled(folder, folder / "model_final.pth", eval_only=True)[0] == folder
    assert (folder / "config.yaml").read_text() == before
    assert (folder / "inference" / "config.yaml").is_file()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_weights_in_a_folder_of_another_user_are_evaluated_elsewhere(tmp_path):
    folder = leave_training(tmp_path / "run")
    folder.chmod(0o555)
    try:
        assert settled(weights=folder / "model_final.pth", eval_only=True)[0] == DEFAULT / "eval-1"
    finally:
        folder.chmod(0o755)


def test_the_configuration_of_a_run_that_was_moved_leads_to_that_run(tmp_path):
    folder = leave_training(tmp_path / "run.old-1", "model_0000003.pth", 3)
    leave_training(tmp_path / "run", "model_0000005.pth", 5)
    # The file says where the folder was.
    cfg = toy_cfg(tmp_path / "run")
    args = argparse.Namespace(config_file=str(folder / "config.yaml"), opts=[], resume=True)
    default_setup(cfg, args)
    assert Path(cfg.OUTPUT_DIR) == folder
    args = argparse.Namespace(config_file=str(folder / "config.yaml"), opts=[])
    with pytest.raises(InputError, match=r"run\.old-1 holds a training"):
        default_setup(toy_cfg(tmp_path / "run"), args)
