"""Every test starts with the built-in datasets only, and with its own folder of datasets."""

import pytest

from segzoo.cli import prepare as command
from tests.data.data_trees import datasets_folder  # noqa: F401  a fixture of every test


@pytest.fixture
def prepare():
    """Runs `segzoo prepare NAME ...` and returns its exit status; in one process unless told otherwise."""

    def run(name, *words):
        alone = [] if "--workers" in words else ["--workers", "1"]
        return command.main([name, *alone, *map(str, words)])

    return run
