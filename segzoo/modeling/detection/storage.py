"""Detectron2's event storage for code that may run without a trainer."""

from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.utils.events import EventStorage, get_event_storage


@contextmanager
def event_storage() -> Iterator[EventStorage]:
    """Yield the current event storage, or a new one that nobody reads.

    Detectron2's detectors log numbers of samples and accuracies wherever they compute losses, and fail
    without a storage.
    """
    try:
        current = get_event_storage()
    except AssertionError:
        with EventStorage() as own:
            yield own
    else:
        yield current
