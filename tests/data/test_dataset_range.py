"""Tests of the estimated range of a dataset's images."""

from types import SimpleNamespace

from segzoo.data import dataset_range


def test_images_of_8_bits_are_looked_at_once(tmp_path, monkeypatch):
    looked_at = []
    monkeypatch.setattr(dataset_range, "has_more_than_8_bits", lambda file: looked_at.append(file) or False)
    dataset = SimpleNamespace(path=tmp_path / "dataset.yaml", image_range=None)
    for _ in range(2):
        assert dataset_range.dataset_range(dataset, ["a", "b"]) is None
    assert looked_at == ["a", "b"]
    dataset_range.dataset_range(dataset, ["a", "c"])
    assert looked_at == ["a", "b", "a", "c"]
    dataset_range.forget_range(dataset)
    dataset_range.dataset_range(dataset, ["a", "b"])
    assert looked_at[4:] == ["a", "b"]
