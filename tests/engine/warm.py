"""Processes in milliseconds: forked from one that has imported everything, which takes seconds.

Each call runs like a command in its own process, with its own environment, output and exit status.
"""

import atexit
import ctypes
import functools
import multiprocessing
import os
import runpy
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_CLONE_NEWNET = 0x40000000


@dataclass
class Started:
    """A process started here; `output` is all that it has printed."""

    process: BaseProcess
    output_file: Path

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    def status(self, timeout: float = 60) -> int | None:
        """Return its exit status, negative for a signal; kill it and return None if it takes longer."""
        self.process.join(timeout)
        status = self.process.exitcode
        if status is None:
            self.process.kill()
            self.process.join()
        return status

    def wait_for(self, path: Path, timeout: float = 60) -> None:
        """Wait until the file exists."""
        deadline = time.monotonic() + timeout
        while not path.exists():
            assert self.process.exitcode is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.005)


def start(
    output_file: Path,
    function: Callable,
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    namespace: str = "",
) -> Started:
    """Call a function of a module with picklable arguments in a new process.

    Errors are reported like those of the tools: in one line, with status 1 or 2.

    Args:
        environment: variables beside those of this process.
        namespace: that of the network, where it is not this process's.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.engine.toy_training", "tensorboard.backend.event_processing.event_accumulator"]
    )
    own = {name: os.environ.get(name) for name in ("PYTHONPATH", "OMP_NUM_THREADS")}
    folders = (REPOSITORY, REPOSITORY / "tools", own["PYTHONPATH"] or "")
    os.environ |= {"PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": "1"}
    try:
        ensure_running()
    finally:
        for name, value in own.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
    process = context.Process(
        target=_call, args=(str(output_file), function, arguments, dict(environment or {}), namespace)
    )
    process.start()
    # Python waits for such processes before it exits, possibly for long after a failed test.
    atexit.register(_end, process)
    return Started(process, output_file)


def _end(process: BaseProcess) -> None:
    if process.is_alive():
        process.kill()


def _call(output_file: str, function: Callable, arguments: tuple, environment: dict, namespace: str) -> None:
    import torch
    from command_line import report_errors

    from segzoo.engine.distributed.signals import StoppedBySignal

    output = os.open(output_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    if namespace:
        descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")

    @report_errors
    def main(words: list[str]) -> int:
        function(*arguments)
        return 0

    try:
        # Those of `as_command` are a command line, which may contain --debug.
        sys.exit(main([word for word in arguments if isinstance(word, str)]))
    except StoppedBySignal as stopped:
        sys.exit(stopped.exit_status)


def as_command(folder: str, error_file: str, tool: str, *arguments: str) -> None:
    """For `start`: run `python tool arguments` in a folder, with standard error in a file."""
    os.dup2(os.open(error_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.chdir(folder)
    sys.argv = [tool, *arguments]
    runpy.run_path(tool, run_name="__main__")


def launch_by_forking(*arguments: object, **options: object) -> None:
    """Run `launch` on the CPU, with forks of this process as children."""
    from segzoo.engine import launch

    module = sys.modules["segzoo.engine.distributed.launch"]
    start_processes = module.mp.start_processes

    @functools.wraps(start_processes)
    def fork(*args, **kwargs):
        return start_processes(*args, **(kwargs | {"start_method": "fork"}))

    # A spawned child has no exit functions of this process, such as the one that removes temporary folders.
    os.register_at_fork(after_in_child=atexit._clear)
    module.mp.start_processes = fork
    launch(*arguments, device="cpu", **options)


def as_torchrun_tells(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Return the environment of one of several processes on one machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
