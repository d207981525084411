"""What every process does first that works for another one: loads images, inspects or converts files."""

import signal
import threading

import cv2


def as_worker(*_: object) -> None:
    """Leaves Ctrl-C to the process that this one works for, and the processors to its fellows.

    An initializer of pools, and of data-loading processes, which are given their number.
    """
    if threading.current_thread() is threading.main_thread():
        # A terminal sends it to all; each would print a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Workers are the parallelism; OpenCV's own threads would contend with them.
    cv2.setNumThreads(0)
