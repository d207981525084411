"""Pickles of data: what is read back, and that reading runs no code."""

import collections
import pickle
import sys
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest

from segzoo.utils.unpickling import unpickle_data


class Pair(NamedTuple):
    first: int
    second: str


@dataclass
class Sum:
    total: float


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_records_plain_values_and_containers_are_read_back(protocol):
    data = {
        "records": [Pair(1, "a"), Sum(2.5)],
        "values": (None, True, 2**70, 1.5, 2j, b"b", bytearray(b"c"), {1}, frozenset({2})),
        "containers": [
            collections.Counter("aab"),
            collections.OrderedDict(b=1, a=2),
            collections.defaultdict(list, {1: [2]}),
            collections.deque([1], 3),
        ],
        "numpy": [np.float32(1.5), np.bool_(True)],
    }
    found = unpickle_data(pickle.dumps(data, protocol), {__name__})
    assert found == data
    assert [type(one) for one in found["containers"]] == [type(one) for one in data["containers"]]
    array = np.arange(6, dtype=np.int16).reshape(2, 3)
    np.testing.assert_array_equal(unpickle_data(pickle.dumps(array, protocol), ()), array)


def test_bytes_of_old_protocols_have_one_encoding():
    # What pickle.dumps(b"\xff", 2) writes, and the same with a codec that is no text encoding.
    old = b"\x80\x02c_codecs\nencode\nX\x02\x00\x00\x00\xc3\xbfX\x06\x00\x00\x00%s\x86R."
    assert pickle.loads(old % b"latin1") == b"\xff"
    for encoding in (b"latin1", b"base64"):
        assert unpickle_data(old % encoding, ()) == b"\xff"


def test_a_module_that_is_not_imported_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "pickled_package").mkdir()
    (tmp_path / "pickled_package/__init__.py").touch()
    (tmp_path / "pickled_package/script.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nSum = int\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        pickle.UnpicklingError, match=r"holds pickled_package\.script\.Sum, which is not plain data"
    ):
        unpickle_data(b"cpickled_package.script\nSum\n.", {"pickled_package"})
    assert not (tmp_path / "ran").exists()
    assert "pickled_package.script" not in sys.modules
