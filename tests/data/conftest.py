"""Every test starts with the built-in datasets only, and with its own folder of datasets."""

import pytest
from data_trees import forget

from segzoo.data import register


@pytest.fixture(autouse=True)
def datasets_folder(tmp_path, monkeypatch):
    """$DETECTRON2_DATASETS, empty at first."""
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    before = set(register._registered)
    yield folder
    forget([name for name in register._registered if name not in before])
