"""What a process does first that works for another one, and what is done for it before it starts."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

import cv2

# What terminals and schedulers send to all processes of a job: one that dies of it would be the job's end.
JOB_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP}


def as_worker(*_: object) -> None:
    """Leave Ctrl-C to the process that this one works for, and the processors to its fellows.

    An initializer of pools, and of data-loading processes, which are given their number.
    """
    if threading.current_thread() is threading.main_thread():
        # A terminal sends it to all; each would print a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Workers are the parallelism; OpenCV's own threads would contend with them.
    cv2.setNumThreads(0)


@contextlib.contextmanager
def out_of_reach() -> Iterator[None]:
    """Inside, processes are started that none of the signals to a whole job reaches.

    From their first moment on: one that is not forked imports for seconds before it calls anything.
    """
    # It would be started with the first of them, and lets signals through when it has been.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
