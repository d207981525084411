"""Files that are no checkpoint of this model: one line each, and no code is run."""

import gzip
import json
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from torch import nn

from segzoo.checkpoint import save_checkpoint
from segzoo.engine import Trainer
from segzoo.model_zoo import load_config
from tests.data.data_trees import write_roads

CONFIG = """
DATASETS:
  FILES: ("{folder}/roads.yaml",)
  TRAIN: ("roads_train",)
  TEST: ("roads_train",)
MODEL:
  META_ARCHITECTURE: PerPixelSegmentor
  DEVICE: cpu
  BACKBONE:
    NAME: ResNetBackbone
    VARIANT: r18
    NORM: BN
    OUT_FEATURES: ("res5",)
  SEM_SEG_HEAD:
    NAME: FCNHead
    IN_FEATURES: ["res5"]
    CONVS_DIM: 8
    NORM: BN
INPUT:
  CROP_SIZE: (64, 64)
  MIN_SIZE_TRAIN: (64,)
  MIN_SIZE_TEST: 32
SOLVER:
  IMS_PER_BATCH: 1
  MAX_ITER: 1
DATALOADER:
  NUM_WORKERS: 0
"""


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return os.mkdir, (self.file,)


@pytest.fixture
def config(tmp_path):
    write_roads(tmp_path, np.zeros((32, 32), np.uint8))
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.replace("{folder}", str(tmp_path)))
    return file


@pytest.fixture
def weights(config):
    """Weights of a model that fits the config."""
    return Trainer.build_model(load_config(config)).state_dict()


def safetensors_header(text):
    return struct.pack("<Q", len(text)) + text


def truncated(file, weights):
    torch.save({"model": weights}, file)
    file.write_bytes(file.read_bytes()[:100_000])


def truncated_pickle(file, weights):
    arrays = {key: value.numpy() for key, value in weights.items()}
    file.write_bytes(pickle.dumps({"model": arrays})[:100_000])


def other_model(file, weights):
    torch.save({"model": {"encoder.weight": torch.zeros(3, 3)}}, file)


def other_classes(file, weights):
    save_checkpoint(file, {"model": weights, "segzoo": {"classes": ["a", "b", "c", "d", "e"]}})


def more_classes(file, weights):
    # The classifier, and nothing else, has a row for each of the 5 classes.
    cut = {
        key: torch.cat([value, value[:2]]) if value.shape[:1] == (5,) else value
        for key, value in weights.items()
    }
    torch.save({"model": cut}, file)


def half(file, weights):
    torch.save({"model": dict(list(weights.items())[: len(weights) // 2])}, file)


def zip_of_text(file, weights):
    import zipfile

    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "hello")


def with_code(file, weights):
    torch.save({"model": weights, "args": Trap(file.parent / "executed")}, file)


def with_code_pickled(file, weights):
    file.write_bytes(pickle.dumps({"model": {}, "args": Trap(file.parent / "executed")}))


def write(content):
    return lambda file, weights: file.write_bytes(content)


def npz(file, weights):
    with file.open("wb") as stream:
        np.savez(stream, a=np.zeros(2))


def script(file, weights):
    torch.jit.script(nn.ReLU()).save(str(file))


def not_a_number(file, weights):
    """The third weight has two, the second is too large for what half precision holds."""
    keys = list(weights)
    spoiled = {**weights, keys[2]: weights[keys[2]].clone()}
    spoiled[keys[2]].flatten()[:2] = torch.tensor([float("nan"), float("inf")])
    torch.save({"model": spoiled}, file)


FILES = {
    "missing": (lambda file, weights: None, "x.pth: does not exist; expected a checkpoint file"),
    "folder": (lambda file, weights: file.mkdir(), "x.pth: is a folder; expected a checkpoint file"),
    "empty": (write(b""), "x.pth is empty; copy or download it again"),
    "zeros": (write(bytes(10_000)), "x.pth starts with zeros: a write was cut off; copy or download it"),
    "HTML": (
        write(b"\n<!DOCTYPE html><html>"),
        "x.pth is a web page, not a checkpoint: the link needs a login",
    ),
    "XML": (write(b"<?xml version='1.0'?><Error>AccessDenied"), "x.pth is a web page, not a checkpoint"),
    "git-LFS": (write(b"version https://git-lfs.github.com/spec/v1\n"), "is a git-LFS pointer"),
    "text": (write(b"hello"), "x.pth is not a checkpoint (it starts with b'hello'); expected .pth, .pkl,"),
    "JSON": (write(json.dumps({"model": 1}).encode()), "x.pth is a JSON file; expected .pth,"),
    "shard index": (
        write(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}).encode()),
        "x.pth is the index of weights in several files; join them into one",
    ),
    "ONNX": (write(b"\x08\x0a\x12\x07pytorch"), "x.pth is an ONNX program; give the checkpoint that it was"),
    "MXNet": (write(b"\x12\x01" + bytes(14)), "x.pth is truncated or damaged (16 bytes; it ends within its"),
    "gzip": (write(gzip.compress(b"a")), "x.pth is an archive; unpack it and give the checkpoint inside"),
    "NumPy archive": (npz, "x.pth is a NumPy archive (.npz); expected .pth, .pkl or .safetensors"),
    "TorchScript": (script, "x.pth is a TorchScript archive; save the model's state_dict() instead"),
    "averages without names": (
        lambda file, weights: torch.save({"shadow_params": [*weights.values()]}, file),
        "x.pth holds weights without names (shadow_params)",
    ),
    "image": (write(b"\x89PNG\r\n\x1a\n" + bytes(100)), "x.pth is not a checkpoint (it starts with"),
    "safetensors header": (write(safetensors_header(b'{"a": 1')), "x.pth is truncated or damaged"),
    "safetensors without data": (
        write(safetensors_header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}')),
        "x.pth is truncated or damaged",
    ),
    "zip of text": (zip_of_text, "x.pth is a zip archive without weights of torch.save; unpack it"),
    "truncated": (truncated, "x.pth is truncated or damaged (100000 bytes; "),
    "truncated pickle": (truncated_pickle, "x.pth is truncated or damaged (100000 bytes; "),
    "list": (lambda file, weights: torch.save([1, 2], file), "x.pth holds a list; expected a dictionary of"),
    "no weights": (
        lambda file, weights: torch.save({"a": 1}, file),
        "x.pth holds no weights (top-level keys: a)",
    ),
    "code": (with_code, "x.pth contains pickled posix.mkdir. Convert it, or pass --trust-checkpoint if you"),
    "code in a pickle": (
        with_code_pickled,
        "x.pth contains pickled posix.mkdir. Convert it, or pass --trust",
    ),
    "other model": (other_model, "x.pth: none of its 1 weights (encoder.weight) has a place in the model"),
    "half": (half, "x.pth (read as "),
    "classes of other names": (other_classes, "x.pth was trained for another config than this one (class 0"),
    "NaN": (not_a_number, "weights are not finite, first backbone."),
    "more classes": (more_classes, "class head not loaded (7 rows in "),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_checkpoint_is_one_line(refusal, config, weights, tmp_path, name):
    spoil, message = FILES[name]
    spoil(tmp_path / "x.pth", weights)
    given = ["OUTPUT_DIR", "{output}", "MODEL.WEIGHTS", tmp_path / "x.pth"]
    line = refusal("train_net", "--config-file", config, "--eval-only", *given)
    assert message in line
    assert not (tmp_path / "executed").exists()


def commands(config, file, folder):
    """Command lines of every tool that reads weights."""
    opts = ["--opts", "MODEL.WEIGHTS", file]
    return {
        "train_net": ["--config-file", config, "MODEL.WEIGHTS", file, "OUTPUT_DIR", folder / "trained"],
        "demo": [
            "--config-file",
            config,
            "--input",
            folder / "images/train/a.png",
            "--output",
            folder / "o",
            *opts,
        ],
        "convert_checkpoint": ["--config-file", config, "--input", file, "--output", folder / "y.pth"],
        "replay": [file],
    }


@pytest.mark.parametrize("name", ["train_net", "demo", "convert_checkpoint", "replay"])
def test_code_in_a_checkpoint_runs_only_if_it_is_trusted(tool, refusal, config, weights, tmp_path, name):
    with_code(tmp_path / "x.pth", weights)
    arguments = commands(config, tmp_path / "x.pth", tmp_path)[name]
    line = refusal(name, *arguments)
    assert line == (
        f"{tmp_path}/x.pth contains pickled posix.mkdir. Convert it, or pass --trust-checkpoint if you "
        "trust its source."
    )
    assert not (tmp_path / "executed").exists()
    answer = tool(name, "--trust-checkpoint", *arguments)
    assert (tmp_path / "executed").is_dir()
    if name == "replay":
        assert "lacks iteration, batch, random_state, config" in answer.err[-1]
    else:
        assert answer.status == 0, answer.err


def test_a_safetensors_description_that_is_no_json_is_one_line(refusal, config, weights, tmp_path):
    from safetensors.torch import save_file

    tensors = {key: value.contiguous() for key, value in weights.items()}
    save_file(tensors, tmp_path / "x.safetensors", {"segzoo": "{broken"})
    given = ["OUTPUT_DIR", "{output}", "MODEL.WEIGHTS", tmp_path / "x.safetensors"]
    line = refusal("train_net", "--config-file", config, "--eval-only", *given)
    assert "x.safetensors is truncated or damaged" in line
