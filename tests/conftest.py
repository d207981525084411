"""Fixtures shared by all tests."""

import os
import sys
from pathlib import Path

import pytest

import segzoo  # noqa: F401  makes the installed libraries work together before any of them is imported

REPOSITORY = Path(__file__).resolve().parent.parent
# What the tools share stands beside them.
sys.path.insert(0, str(REPOSITORY / "tools"))


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder of real sample images with labels: CamVid, two COCO panoptic images, three VOC images."""
    folder = Path(os.environ.get("SEGZOO_SAMPLE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "camvid").is_dir():
        pytest.skip(f"no sample data in {folder}; set SEGZOO_SAMPLE_DATA to a folder with camvid/ in it")
    return folder
