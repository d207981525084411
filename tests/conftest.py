"""Fixtures shared by all tests."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import segzoo  # noqa: F401  makes the installed libraries work together before any of them is imported

REPOSITORY = Path(__file__).resolve().parent.parent
# As in segzoo.engine.setup, whose import not every test needs.
LOGGED_PACKAGES = ("segzoo", "detectron2", "fvcore")


@contextlib.contextmanager
def log_kept_as_it_is() -> Iterator[None]:
    """Undo what `setup_logging` does inside: handlers, levels, and propagation."""
    loggers = [logging.getLogger(name) for name in LOGGED_PACKAGES]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagates) in zip(loggers, before, strict=True):
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagates


@pytest.fixture(autouse=True, scope="module")
def _log_of_a_module() -> Iterator[None]:
    with log_kept_as_it_is():
        yield


@pytest.fixture(autouse=True)
def _log_of_a_test() -> Iterator[None]:
    # A handler from a fixture of the module may write to a captured screen that is closed by now.
    for name in LOGGED_PACKAGES:
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if getattr(getattr(handler, "stream", None), "closed", False):
                logger.removeHandler(handler)
        if not logger.handlers:
            logger.propagate = True
    with log_kept_as_it_is():
        yield


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The folder of real sample images with labels: CamVid, two COCO panoptic images, three VOC images."""
    folder = Path(os.environ.get("SEGZOO_SAMPLE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "camvid").is_dir():
        pytest.skip(f"no sample data in {folder}; set SEGZOO_SAMPLE_DATA to a folder with camvid/ in it")
    return folder
