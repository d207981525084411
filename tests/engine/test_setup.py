"""Setup of a job: folder, log, device, seed."""

import argparse
import logging
import multiprocessing
import random

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog

from segzoo.engine import default_setup, describe, resolve_device
from segzoo.engine.rng_state import capture_random_state, preserved_random_state, restore_random_state
from segzoo.utils.errors import InputError
from tests.engine.toy_training import toy_cfg


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_the_same_seed_draws_the_same_numbers(tmp_path):
    default_setup(toy_cfg(tmp_path, SEED=3))
    first = draw()
    default_setup(toy_cfg(tmp_path, SEED=3))
    assert draw() == first
    default_setup(toy_cfg(tmp_path, SEED=4))
    assert draw() != first


def test_a_negative_seed_is_replaced_logged_and_written(tmp_path):
    cfg = toy_cfg(tmp_path, SEED=-1)
    default_setup(cfg)
    assert cfg.SEED >= 0
    assert f"using {cfg.SEED}; set SEED {cfg.SEED} to repeat" in (tmp_path / "log.txt").read_text()
    assert f"SEED: {cfg.SEED}\n" in (tmp_path / "config.yaml").read_text()


def test_the_screen_is_short_and_the_file_is_complete(tmp_path, capsys):
    default_setup(toy_cfg(tmp_path), argparse.Namespace(resume=True))
    logging.getLogger("segzoo.anything").warning("careful")
    screen, file = capsys.readouterr().out, (tmp_path / "log.txt").read_text()
    assert "WARNING careful" in screen
    assert "\x1b[" not in screen
    assert len(screen.splitlines()) <= 3
    assert all(text in file for text in ("careful", "PyTorch", "META_ARCHITECTURE", "resume=True"))


def test_setting_up_twice_does_not_log_twice(tmp_path, capsys):
    default_setup(toy_cfg(tmp_path / "a"))
    default_setup(toy_cfg(tmp_path / "b"))
    capsys.readouterr()
    logging.getLogger("segzoo").info("once")
    assert capsys.readouterr().out.count("once") == 1
    assert "once" not in (tmp_path / "a" / "log.txt").read_text()


def test_without_cuda_the_default_device_becomes_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = toy_cfg(tmp_path, MODEL__DEVICE="cuda")
    default_setup(cfg)
    assert cfg.MODEL.DEVICE == "cpu"
    assert "no CUDA device: running on the CPU" in (tmp_path / "log.txt").read_text()
    with pytest.raises(InputError, match=r"MODEL\.DEVICE cuda:1: 0 GPUs visible; use MODEL\.DEVICE cpu"):
        resolve_device(toy_cfg(tmp_path, MODEL__DEVICE="cuda:1"))


def test_an_output_folder_that_cannot_be_created_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"OUTPUT_DIR .*/file/out: Not a directory"):
        default_setup(toy_cfg(tmp_path / "file" / "out"))


def test_a_description_is_plain_data(tmp_path):
    metadata = MetadataCatalog.get("toy_described").set(
        classes=("a", "b"), colors=np.array([[1, 2, 3], [4, 5, 6]]).tolist(), label_map={7: np.int64(1)}
    )
    about = describe(toy_cfg(tmp_path), metadata)
    assert about["dataset"] == "toy_described"
    assert about["classes"] == ["a", "b"]
    assert about["label_map"] == {7: 1}
    assert type(about["label_map"][7]) is int


def test_restored_generators_draw_the_same_numbers_again():
    state = capture_random_state()
    first = draw()
    restore_random_state(state)
    assert draw() == first
    with preserved_random_state():
        inside = draw()
    assert draw() == inside


def test_without_a_standard_output_there_is_the_file_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdout", None)  # as in Python after `>&-`
    default_setup(toy_cfg(tmp_path))
    logging.getLogger("segzoo.anything").warning("careful")
    assert "careful" in (tmp_path / "log.txt").read_text()


def test_a_script_that_a_spawned_process_runs_again_is_an_input_error(tmp_path, monkeypatch):
    # As multiprocessing sets it while it imports the script.
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(InputError, match=r"^the training script is run again by a process .* __name__"):
        default_setup(toy_cfg(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
