"""Fixtures shared by all tests."""

import logging
import os
import sys
from pathlib import Path

import pytest

import segzoo  # noqa: F401  makes the installed libraries work together before any of them is imported

REPOSITORY = Path(__file__).resolve().parent.parent
# What the tools share stands beside them.
sys.path.insert(0, str(REPOSITORY / "tools"))
# As in segzoo.engine.setup, whose import not every test needs.
LOGGED_PACKAGES = ("segzoo", "detectron2", "fvcore")


@pytest.fixture(autouse=True)
def _no_log_of_a_test_before() -> None:
    """Takes away what logs to a captured screen that has been closed with its test."""
    for name in LOGGED_PACKAGES:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if getattr(getattr(handler, "stream", None), "closed", False):
                logger.removeHandler(handler)
        if not logger.handlers:
            logger.propagate = True


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder of real sample images with labels: CamVid, two COCO panoptic images, three VOC images."""
    folder = Path(os.environ.get("SEGZOO_SAMPLE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "camvid").is_dir():
        pytest.skip(f"no sample data in {folder}; set SEGZOO_SAMPLE_DATA to a folder with camvid/ in it")
    return folder
