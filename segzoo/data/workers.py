"""Start-up of worker processes: signals and threads."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker

import cv2

# Signals that terminals and schedulers send to all processes of a job; a worker must not die of them.
JOB_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP}


def init_worker(*_: object) -> None:
    """Ignore Ctrl-C, which the parent process handles, and turn OpenCV's threads off.

    Initializer of process pools and of data-loader workers (which pass their number).
    """
    if threading.current_thread() is threading.main_thread():
        # A terminal sends SIGINT to every process; each would print a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The workers run in parallel already; OpenCV's threads would compete with them.
    cv2.setNumThreads(0)


@contextlib.contextmanager
def job_signals_blocked() -> Iterator[None]:
    """Block the signals to a whole job in processes that are started inside.

    A process that is not forked imports for seconds before it could block them itself.
    """
    # It would otherwise be started with the first process, and unblocks the signals once it runs.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
