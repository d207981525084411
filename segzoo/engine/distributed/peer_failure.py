"""A process that is gone, as the others see it: explained in one line, not by screenfuls of their calls."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


class LostProcessError(RuntimeError):
    """Another process of the job has ended, or cannot be reached; the message says which, and what to do."""

    # Of the process: the message is the whole explanation.
    exit_status = 1


# What gloo, NCCL and the store say of a connection that another process has closed, or that is silent.
_LOST = re.compile(
    r"connection (was likely )?(closed|reset)|broken pipe|remote process exited|ncclremoteerror"
    r"|timeout caused pair closure|timed out waiting \d+ ?ms|recv, got 0 bytes|socket timeout",
    re.IGNORECASE,
)
_TRANSPORTS = re.compile(r"gloo|nccl|c10d|tcpstore|socket", re.IGNORECASE)
_ADDRESS = re.compile(r"\[(?:::ffff:)?([0-9a-fA-F.:]+)\]:\d+")


@contextmanager
def lost_processes_explained(rank: int) -> Iterator[None]:
    """Around what a process of several does.

    Raises:
        LostProcessError: inside, where a message to another process, or from it, did not arrive.
    """
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        of_transport = isinstance(error, getattr(dist, "DistError", ())) or _TRANSPORTS.search(message)
        if not of_transport or not _LOST.search(message):
            raise
        address = _ADDRESS.search(message)
        at = f" at {address.group(1)}" if address else ""
        raise LostProcessError(
            f"process {rank} lost the connection to another process{at}: that one has ended, or its machine "
            "or the network has failed. Its own output, or its log.txt.rank<n> in OUTPUT_DIR, says why; "
            "--resume goes on from the last checkpoint"
        ) from error
