"""Save and resume: atomic files, fallback on the previous checkpoint, number of kept checkpoints."""

import logging
import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from fvcore.common.checkpoint import PeriodicCheckpointer
from torch import nn

import segzoo.checkpoint.checkpointer as checkpointer_module
from segzoo.checkpoint import KeyMap, SegzooCheckpointer, read_checkpoint, register_key_map, save_checkpoint
from segzoo.utils import files
from segzoo.utils.errors import InputError

register_key_map(KeyMap("test: classifier", (r"!.",), classifier=(r"^classifier\.",)))

DESCRIPTION = {"version": "0.1.0", "task": "semantic", "classes": ["road", "sky"], "ignore_label": 255}


class Model(nn.Module):
    def __init__(self, classes: int = 2):
        super().__init__()
        self.body = nn.Linear(2, 4)
        self.classifier = nn.Linear(4, classes)


def training(folder: Path, classes: int = 2, **options):
    """A model with momentum in its optimizer, a schedule, and their checkpointer."""
    model = Model(classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    checkpointer = SegzooCheckpointer(model, str(folder), optimizer=optimizer, scheduler=scheduler, **options)
    return model, optimizer, scheduler, checkpointer


def step(model, optimizer, scheduler):
    optimizer.zero_grad()
    model.classifier(model.body(torch.ones(1, 2))).square().sum().backward()
    optimizer.step()
    scheduler.step()


def assert_equal_weights(first: nn.Module, second: nn.Module) -> None:
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_resumed_training_equals_uninterrupted_training(tmp_path):
    torch.manual_seed(0)
    model, optimizer, scheduler, checkpointer = training(tmp_path)
    for _ in range(3):
        step(model, optimizer, scheduler)
    checkpointer.save("model_0000002", iteration=2)
    again = training(tmp_path)
    rest = again[3].resume_or_load("", resume=True)
    assert rest == {"iteration": 2}
    for _ in range(3):
        step(model, optimizer, scheduler)
        step(*again[:3])
    assert_equal_weights(model, again[0])
    assert again[2].get_last_lr() == scheduler.get_last_lr()


def test_without_resume_only_the_weights_are_taken(tmp_path):
    model, optimizer, scheduler, checkpointer = training(tmp_path)
    step(model, optimizer, scheduler)
    checkpointer.save("model_final", iteration=0)
    again = training(tmp_path / "new")
    again[3].resume_or_load(str(tmp_path / "model_final.pth"), resume=False)
    assert_equal_weights(model, again[0])
    assert not again[1].state_dict()["state"]
    assert again[3].report.complete


def test_resume_without_a_last_checkpoint_says_where_it_starts(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert training(tmp_path)[3].resume_or_load("", resume=True) == {}
    assert f"--resume: no last_checkpoint in {tmp_path}; starting from random weights" in caplog.text


def test_the_newest_checkpoint_is_the_last_one_if_none_is_named(tmp_path, monkeypatch):
    """A job may be killed between writing the two files."""
    checkpointer = training(tmp_path)[3]
    assert not checkpointer.has_checkpoint()
    assert checkpointer.get_checkpoint_file() == ""
    for time, iteration in enumerate((9, 4)):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        os.utime(tmp_path / f"model_{iteration:07d}.pth", (time, time))
    (tmp_path / "last_checkpoint").unlink()
    assert checkpointer.has_checkpoint()
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000004.pth")
    assert checkpointer.resume_or_load("", resume=True) == {"iteration": 4}
    # The other one, where it is named.
    checkpointer.tag_last_checkpoint("model_0000009.pth")
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000009.pth")
    # Without a folder there is none, whatever the current one holds.
    monkeypatch.chdir(tmp_path)
    assert not SegzooCheckpointer(Model()).has_checkpoint()
    assert SegzooCheckpointer(Model()).get_checkpoint_file() == ""


@pytest.mark.parametrize("damage", ["truncated", "zeros", "empty", "flipped bit", "deleted"])
def test_damaged_newest_checkpoint_falls_back_on_the_one_before(tmp_path, caplog, damage):
    model, optimizer, scheduler, checkpointer = training(tmp_path)
    for iteration in (4, 9):
        step(model, optimizer, scheduler)
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    newest = tmp_path / "model_0000009.pth"
    content = bytearray(newest.read_bytes())
    if damage == "deleted":
        newest.unlink()
    else:
        weight = content.index(model.body.weight.detach().numpy().tobytes())
        content[weight + 2] ^= 1
        changed = {"truncated": content[: len(content) // 2], "zeros": bytes(len(content)), "empty": b""}
        newest.write_bytes(changed.get(damage, content))
    assert training(tmp_path)[3].resume_or_load("", resume=True) == {"iteration": 4}
    assert "model_0000009.pth" in caplog.text


def test_only_damaged_checkpoints_stop_the_resume(tmp_path):
    training(tmp_path)[3].save("model_0000004", iteration=4)
    (tmp_path / "model_0000004.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"no checkpoint in .* can be read; start again with --overwrite"):
        training(tmp_path)[3].resume_or_load("", resume=True)


def test_processes_that_see_different_checkpoints_are_stopped(tmp_path, monkeypatch):
    checkpointer = training(tmp_path)[3]
    checkpointer.save("model_0000004", iteration=4)
    monkeypatch.setattr(checkpointer_module.comm, "all_gather", lambda name: [name, ""])
    with pytest.raises(InputError, match="must be a folder that all machines share"):
        checkpointer.resume_or_load("", resume=True)


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_crash_while_saving_leaves_the_previous_file_and_no_other(tmp_path, monkeypatch, moment):
    model, _, _, checkpointer = training(tmp_path)
    checkpointer.save("model_final", iteration=1)
    before = (tmp_path / "model_final.pth").read_bytes()
    with torch.no_grad():
        model.body.weight.zero_()

    def crash(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, moment, crash)
        with pytest.raises(InputError, match="No space left"):
            checkpointer.save("model_final", iteration=2)
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert names(tmp_path) == ["last_checkpoint", "model_final.pth"]
    assert training(tmp_path)[3].resume_or_load("", resume=True) == {"iteration": 1}


def test_killed_process_leaves_the_previous_file_and_the_next_save_cleans_up(tmp_path):
    checkpointer = training(tmp_path)[3]
    checkpointer.save("model_0000001", iteration=1)
    pid = os.fork()
    if pid == 0:  # the child dies between writing and renaming, without any clean-up
        files.os.replace = lambda *_: os._exit(9)
        checkpointer.save("model_0000003", iteration=3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert names(tmp_path) == [f".model_0000003.{pid}.writing.pth", "last_checkpoint", "model_0000001.pth"]
    again = training(tmp_path)[3]
    assert again.resume_or_load("", resume=True) == {"iteration": 1}
    again.save("model_0000005", iteration=5)
    assert names(tmp_path) == ["last_checkpoint", "model_0000001.pth", "model_0000005.pth"]


def test_last_periodic_checkpoints_are_kept_also_across_a_resume(tmp_path):
    checkpointer = training(tmp_path, keep=2)[3]
    periodic = PeriodicCheckpointer(checkpointer, period=2, max_iter=10)
    for iteration in range(6):
        periodic.step(iteration)
    checkpointer.save("model_best", iteration=3)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000005.pth"
    periodic = PeriodicCheckpointer(training(tmp_path, keep=2)[3], period=2, max_iter=10)
    for iteration in range(6, 10):
        periodic.step(iteration)
    kept = ["model_0000007.pth", "model_0000009.pth", "model_best.pth", "model_final.pth"]
    assert names(tmp_path) == ["last_checkpoint", *kept]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_keep_0_keeps_all(tmp_path):
    checkpointer = training(tmp_path)[3]
    for iteration in range(5):
        checkpointer.save(f"model_{iteration:07d}")
    assert len(list(tmp_path.glob("*.pth"))) == 5


def test_saved_file_describes_itself_and_needs_no_trust(tmp_path):
    training(tmp_path, description=DESCRIPTION)[3].save("model_final", iteration=1)
    file = read_checkpoint(tmp_path / "model_final.pth")
    assert file.description == DESCRIPTION
    assert set(file.rest) == {"optimizer", "scheduler", "iteration"}
    assert isinstance(torch.load(tmp_path / "model_final.pth", weights_only=True)["model"], dict)


def test_content_that_could_not_be_read_back_is_refused_on_save(tmp_path):
    checkpointer = training(tmp_path)[3]
    checkpointer.save("model_0000001", iteration=1)
    with pytest.raises(InputError, match=r"cannot save argparse\.Namespace"):
        checkpointer.save("model_0000002", args=Namespace(lr=1))
    assert names(tmp_path) == ["last_checkpoint", "model_0000001.pth"]


def test_other_ranks_and_empty_folder_do_not_save(tmp_path):
    training(tmp_path, save_to_disk=False)[3].save("model_final")
    assert names(tmp_path) == []
    SegzooCheckpointer(Model()).save("model_final")


def test_fine_tuning_reinitializes_the_classifier_but_resuming_never_does(tmp_path):
    training(tmp_path, classes=2)[3].save("model_final", iteration=1)
    tuned = training(tmp_path / "new", classes=5)[3]
    tuned.resume_or_load(str(tmp_path / "model_final.pth"), resume=False)
    assert tuned.report.reinitialized == ["classifier.weight", "classifier.bias"]
    with pytest.raises(InputError, match="classifier"):
        training(tmp_path, classes=5)[3].resume_or_load("", resume=True)


def test_other_class_names_of_the_same_number_are_warned_about(tmp_path, caplog):
    training(tmp_path, description=DESCRIPTION)[3].save("model_final")
    other = training(tmp_path / "new", description=DESCRIPTION | {"classes": ["road", "sea"]})[3]
    other.resume_or_load(str(tmp_path / "model_final.pth"), resume=False)
    assert "class 1: 'sky' vs 'sea'" in caplog.text


def test_wrapped_model_saves_and_loads_unwrapped_names(tmp_path):
    model = Model()
    SegzooCheckpointer(nn.DataParallel(model), str(tmp_path)).save("model_final")
    assert list(read_checkpoint(tmp_path / "model_final.pth").weights) == list(model.state_dict())
    other = Model()
    SegzooCheckpointer(nn.DataParallel(other)).load(str(tmp_path / "model_final.pth"))
    assert_equal_weights(model, other)


def test_absent_optimizer_in_a_resumed_file_is_warned_about(tmp_path, caplog):
    save_checkpoint(tmp_path / "model_0000001.pth", {"model": Model().state_dict(), "iteration": 1})
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    training(tmp_path)[3].resume_or_load("", resume=True)
    assert "holds no optimizer; it starts anew" in caplog.text
