"""Every test starts with the built-in datasets only, and with its own folder of datasets."""

import importlib.util
import sys
from pathlib import Path

import pytest
from data_trees import datasets_folder  # noqa: F401  a fixture of every test

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch):
    """Gives a script of datasets/ as a module."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "datasets"))

    def load(name):
        spec = importlib.util.spec_from_file_location(name, REPOSITORY / f"datasets/{name}.py")
        module = importlib.util.module_from_spec(spec)
        # Worker processes look functions up by module and name.
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load
