"""Reporting a lost process (an error of NCCL or gloo) in one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist


class LostProcessError(RuntimeError):
    """Another process of the job has ended or cannot be reached; the message says which, and what to do."""

    # Exit status of the process.
    exit_status = 1


# Messages of gloo, NCCL and the store about a connection that was closed or timed out.
_LOST = re.compile(
    r"connection (was likely )?(closed|reset)|broken pipe|remote process exited|ncclremoteerror"
    r"|timeout caused pair closure|timed out waiting \d+ ?ms|recv, got 0 bytes|socket timeout",
    re.IGNORECASE,
)
_TRANSPORTS = re.compile(r"gloo|nccl|c10d|tcpstore|socket", re.IGNORECASE)
_ADDRESS = re.compile(r"\[(?:::ffff:)?([0-9a-fA-F.:]+)\]:\d+")


@contextmanager
def lost_processes_explained(rank: int) -> Iterator[None]:
    """Turn errors of the communication between processes into `LostProcessError`.

    Raises:
        LostProcessError: inside, where a message to or from another process did not arrive.
    """
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        in_transport = isinstance(error, getattr(dist, "DistError", ())) or _TRANSPORTS.search(message)
        if not in_transport or not _LOST.search(message):
            raise
        address = _ADDRESS.search(message)
        at = f" at {address.group(1)}" if address else ""
        raise LostProcessError(
            f"process {rank} lost the connection to another process{at}: it has ended, or its machine "
            "or the network has failed. Its own output, or its log.txt.rank<n> in OUTPUT_DIR, says why; "
            "--resume continues from the last checkpoint"
        ) from error
