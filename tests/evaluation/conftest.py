"""Fixtures of the tests of evaluators."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from segzoo.data import register


@pytest.fixture
def forget_datasets():
    """Remove the datasets that a test registers."""
    before = set(register._registered)
    yield
    for name in set(register._registered) - before:
        register._registered.pop(name)
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
