"""Arithmetic on label maps against numpy's plain forms."""

import numpy as np
import pytest

from segzoo.data.label_ops import count_values, look_up


@pytest.fixture(params=["compiled", "OpenCV"])
def _counting(request, monkeypatch):
    if request.param == "OpenCV":
        monkeypatch.setattr("segzoo.data.label_ops.load_loops", lambda module: None)


@pytest.mark.usefixtures("_counting")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1), (37, 53), (0, 5)])
def test_every_value_is_counted(dtype, shape):
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    counts = count_values(values)
    assert counts.shape == (np.iinfo(dtype).max + 1,)
    assert counts.dtype == np.int64
    assert {value: count for value, count in enumerate(counts.tolist()) if count} == dict(
        zip(*(column.tolist() for column in np.unique(values, return_counts=True)), strict=True)
    )


@pytest.mark.usefixtures("_counting")
def test_a_view_with_gaps_is_counted_as_it_is_seen():
    values = np.arange(48, dtype=np.uint8).reshape(6, 8)[::2, 1::3]
    assert np.flatnonzero(count_values(values)).tolist() == sorted(values.ravel().tolist())


@pytest.mark.usefixtures("_counting")
def test_counts_are_exact_beyond_what_float32_can_hold():
    """2**24 + 1, the first whole number that float32 rounds."""
    values = np.zeros((4097, 4096), dtype=np.uint8)
    values[0, 1:] = 7
    assert count_values(values)[[0, 7]].tolist() == [(1 << 24) + 1, 4095]


@pytest.mark.parametrize("indices", [np.uint8, np.uint16])
@pytest.mark.parametrize("table", [np.uint8, np.int16, np.uint16, np.int64])
def test_tables_are_looked_up_as_numpy_does(indices, table):
    values = np.arange(300).reshape(15, 20).astype(indices)
    entries = np.random.default_rng(0).integers(0, 100, 1 << 16).astype(table)
    assert np.array_equal(look_up(entries, values[::2]), entries[values[::2]])
