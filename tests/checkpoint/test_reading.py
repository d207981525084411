"""Read files of many formats: what is read, what is refused, and the messages."""

import os
import pickle
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segzoo.checkpoint import DamagedFileError, read_checkpoint, save_checkpoint
from segzoo.utils.errors import InputError


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model(torch.randn(5, 2))
    return model.state_dict()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


class Trap:
    """Object that writes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


class SystemTrap(Trap):
    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def write_legacy(content, file):
    torch.save(content, file, _use_new_zipfile_serialization=False)


def write_pickle(content, file):
    file.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state"])
@pytest.mark.parametrize("write", [torch.save, write_legacy, write_pickle])
def test_weights_are_found_below_every_usual_key_in_every_format(tmp_path, weights, write, key):
    write(weights if key is None else {key: weights, "epoch": 3}, tmp_path / "x.pth")
    file = read_checkpoint(tmp_path / "x.pth")
    assert_same(file.weights, weights)
    assert file.rest == ({} if key is None else {"epoch": 3})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_pickled_by_any_protocol_become_tensors(tmp_path, weights, protocol):
    arrays = {key: value.numpy() for key, value in weights.items()}
    content = {"model": arrays, "__author__": "someone", "matching_heuristics": True, "loss": np.float32(1.5)}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    file = read_checkpoint(tmp_path / "x.pkl")
    assert_same(file.weights, weights)
    assert file.rest == {"__author__": "someone", "matching_heuristics": True, "loss": 1.5}


def test_caffe2_blobs_are_read_without_its_other_entries(tmp_path):
    blobs = {"conv1_w": np.ones((2, 1, 1, 1), np.float32), "weight_order": ["conv1_w"], "lr": 0.1}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    assert list(read_checkpoint(tmp_path / "x.pkl").weights) == ["conv1_w"]


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.parametrize("write", [write_legacy, write_pickle])
def test_arrays_written_with_numpy_1_and_numpy_2_are_read(tmp_path, write, module):
    write({"model": {"weight": np.arange(3.0)}, "best": np.float64(71.5)}, tmp_path / "x")
    content = (tmp_path / "x").read_bytes()
    own = next(name for name in (b"numpy._core.multiarray", b"numpy.core.multiarray") if name in content)
    (tmp_path / "x").write_bytes(content.replace(own, module))
    file = read_checkpoint(tmp_path / "x")
    assert torch.equal(file.weights["weight"], torch.arange(3.0, dtype=torch.float64))
    assert file.rest == {"best": 71.5}


def test_big_endian_and_column_major_arrays_keep_their_values(tmp_path):
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {"big": expected.astype(">f4"), "fortran": np.asfortranarray(expected)}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(arrays))
    for value in read_checkpoint(tmp_path / "x.pkl").weights.values():
        assert torch.equal(value, torch.from_numpy(expected))


def test_arrays_and_numpy_scalars_in_a_pth_need_no_trust(tmp_path, weights):
    arrays = OrderedDict((key, value.numpy()) for key, value in weights.items())
    torch.save({"model": arrays, "best": np.float64(71.5), "count": np.int64(3)}, tmp_path / "x.pth")
    file = read_checkpoint(tmp_path / "x.pth")
    assert_same(file.weights, weights)
    assert file.rest == {"best": 71.5, "count": 3}


def test_safetensors_keeps_weights_and_description(tmp_path, weights):
    save_checkpoint(tmp_path / "x.safetensors", {"model": weights, "segzoo": {"classes": ["road", "sky"]}})
    file = read_checkpoint(tmp_path / "x.safetensors")
    assert set(file.weights) == set(weights)
    assert all(torch.equal(file.weights[key], value) for key, value in weights.items())
    assert file.description == {"classes": ["road", "sky"]}


def test_repeated_prefixes_of_parallel_wrappers_are_removed(tmp_path, weights):
    torch.save({f"module.module.{key}": value for key, value in weights.items()}, tmp_path / "x.pth")
    assert_same(read_checkpoint(tmp_path / "x.pth").weights, weights)


@pytest.mark.parametrize("trap", [Trap, SystemTrap])
@pytest.mark.parametrize("write", [torch.save, write_legacy, write_pickle])
def test_code_in_a_pickle_is_refused_and_not_executed(tmp_path, weights, write, trap):
    write({"model": weights, "extra": trap(tmp_path / "executed")}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"x\.pth contains pickled .*--trust-checkpoint"):
        read_checkpoint(tmp_path / "x.pth")
    assert not (tmp_path / "executed").exists()


def test_code_hidden_in_the_bytes_of_a_pickled_tensor_is_not_executed(tmp_path):
    inner = tmp_path / "inner.pth"
    torch.save(Trap(tmp_path / "executed"), inner)

    class HiddenTrap:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner.read_bytes(),)

    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": HiddenTrap()}))
    with pytest.raises(InputError):
        read_checkpoint(tmp_path / "x.pkl")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("write", [torch.save, write_legacy, write_pickle])
def test_pickled_objects_are_read_when_trusted(tmp_path, weights, write):
    write({"model": weights, "args": Namespace(lr=0.1)}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"contains pickled argparse\.Namespace"):
        read_checkpoint(tmp_path / "x.pth")
    file = read_checkpoint(tmp_path / "x.pth", trust=True)
    assert_same(file.weights, weights)
    assert file.rest == {"args": Namespace(lr=0.1)}


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.pkl", "legacy.pth"])
def test_truncated_file_says_so(tmp_path, name, share):
    weights = {"weight": torch.arange(4000.0)}
    whole, cut = tmp_path / name, tmp_path / f"cut_{name}"
    if name == "x.pkl":
        write_pickle({"weight": weights["weight"].numpy()}, whole)
    elif name == "legacy.pth":
        write_legacy(weights, whole)
    else:
        save_checkpoint(whole, {"model": weights})
    content = whole.read_bytes()
    cut.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DamagedFileError, match="truncated or damaged"):
        read_checkpoint(cut)


def test_flipped_bit_is_found_when_asked_to_verify(tmp_path):
    save_checkpoint(tmp_path / "x.pth", {"model": {"weight": torch.full((50,), 3.0)}})
    content = bytearray((tmp_path / "x.pth").read_bytes())
    content[content.index(torch.full((50,), 3.0).numpy().tobytes()) + 2] ^= 1
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(DamagedFileError, match="checksum"):
        read_checkpoint(tmp_path / "x.pth", verify=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git-LFS pointer"),
        (bytes(4096), "starts with zeros"),
        (b"some text about a model", "is not a checkpoint"),
    ],
)
def test_what_is_not_a_checkpoint_is_named_in_one_line(tmp_path, content, message):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_checkpoint(tmp_path / "x.pth")
    assert "x.pth" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "message"), [([1, 2], "holds a list"), ({"epoch": 3}, "keys: epoch")])
def test_file_without_weights_says_what_it_holds(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InputError, match=message):
        read_checkpoint(tmp_path / "x.pth")
