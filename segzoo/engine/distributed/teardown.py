"""Ending the communication between processes, and a process, without threads that outlive the interpreter."""

import atexit
import gc
import os
import sys
import threading

import torch.distributed as dist
from detectron2.utils import comm


def leave_process_group() -> None:
    """Destroy all process groups, and wait for the end of their threads.

    The threads of gloo end with the last reference to a group, whatever `destroy_process_group` does. One
    that frees a tensor while the interpreter ends would abort the process. References are held by
    Detectron2's `comm`, and by DistributedDataParallel, which is freed only by the garbage collector: a
    trainer and its hooks refer to each other.
    """
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    gc.collect()
    dist.destroy_process_group()
    gc.collect()


def end_process() -> None:
    """End this process with status 0, after its threads and its functions registered with `atexit`.

    Objects of modules are not destroyed, as in the processes that `multiprocessing` forks: nothing that a
    library does then can turn a finished training into a failure.
    """
    try:
        # What the interpreter does before it destroys objects; multiprocessing calls the same two functions.
        threading._shutdown()
        atexit._run_exitfuncs()
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(0)
