"""Starting one or many processes, or joining those that torchrun or srun has started.

Without a GPU, N processes on the CPU communicate through gloo.
"""

import json
import logging
import os
import re
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from segzoo.data.workers import job_signals_blocked
from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text
from segzoo.utils.threads import OPENMP_SETTINGS, configure_openmp, free_processors, user_thread_setting

from ..nonfinite_dump import NonFiniteLossError
from .network import interface_towards
from .peer_failure import LostProcessError, lost_processes_explained
from .signals import StoppedBySignal, add_children, forward_signals, unblock_signals
from .teardown import end_process, leave_process_group

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT = timedelta(minutes=30)
# Errors whose message is the whole explanation; a child's is raised again in the parent.
EXPLAINED_ENDS = {
    end.__name__: end for end in (InputError, NonFiniteLossError, StoppedBySignal, LostProcessError)
}
# Seconds that a process waits when it has lost another one, so that the parent sees that one fail first.
_WAIT_FOR_CAUSE = 2.0


@dataclass(frozen=True)
class ProcessPlace:
    """Ranks of a process, counted from 0, and numbers of processes."""

    rank: int
    local_rank: int
    world_size: int
    local_size: int


def launch(
    main: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple = (),
    *,
    device: str = "cuda",
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call `main(*args)` in every process of the job, with the process group ready.

    Under torchrun, or srun with several tasks, this process joins the others and takes its ranks from them.
    Otherwise a single process runs here, and several are spawned; when one fails, the others are ended and
    its error is raised here.

    Args:
        main: picklable (a module's function) if several processes are spawned.
        num_gpus_per_machine: processes on each machine; on the CPU they share the cores.
        num_machines, machine_rank: number of machines, and the index of this one; all machines call with the
            same dist_url.
        dist_url: tcp://HOST:PORT of machine 0; "auto" picks a free port for a single machine.
        device: "cuda..." or "cpu"; the CPU where CUDA is not available.
        timeout: of every collective operation.

    Raises:
        InputError: impossible or contradictory numbers of processes or machines, or raised by `main`.
        NonFiniteLossError, StoppedBySignal: raised by `main`.
        LostProcessError: a process was killed, or one on another machine has ended.
    """
    on_gpu = device.startswith("cuda") and torch.cuda.is_available()
    started_elsewhere = place_from_environment(os.environ)
    if started_elsewhere is not None:
        if num_gpus_per_machine not in (1, started_elsewhere.local_size):
            raise InputError(
                f"--num-gpus {num_gpus_per_machine} but torchrun or srun has started "
                f"{started_elsewhere.local_size} processes on each machine; leave --num-gpus out, or start "
                "that number of processes (torchrun --nproc-per-node, srun --ntasks-per-node)"
            )
        _join(started_elsewhere, _rendezvous_from_environment(os.environ), None, on_gpu, timeout)
        try:
            with lost_processes_explained(started_elsewhere.rank):
                main(*args)
        except StoppedBySignal as stopped:
            # The frames refer to the model, and so to the process group.
            traceback.clear_frames(stopped.__traceback__)
            leave_process_group()
            raise
        leave_process_group()
        return
    _check_numbers(num_gpus_per_machine, num_machines, machine_rank, dist_url, on_gpu)
    world_size = num_gpus_per_machine * num_machines
    if world_size == 1:
        main(*args)
        return
    if not on_gpu:
        logger.info("--num-gpus %d without CUDA: using CPU processes over gloo", num_gpus_per_machine)
    places = [
        ProcessPlace(machine_rank * num_gpus_per_machine + i, i, world_size, num_gpus_per_machine)
        for i in range(num_gpus_per_machine)
    ]
    store_port = None
    if num_machines == 1 and dist_url == "auto":
        # The system gives the store its port, which no other program can take in between.
        store = dist.TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False, timeout=timeout)
        store_port = store.port
    _spawn(main, args, places, dist_url, store_port, on_gpu, timeout)


def place_from_environment(environment: Mapping[str, str]) -> ProcessPlace | None:
    """Return the place of this process from the variables of torchrun or srun; None if neither started it.

    Raises:
        InputError: WORLD_SIZE is above 1, but other variables needed to join the processes are not set.
    """
    missing = [
        name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR") if name not in environment
    ]
    if not missing:
        world_size = int(environment["WORLD_SIZE"])
        return ProcessPlace(
            int(environment["RANK"]),
            int(environment["LOCAL_RANK"]),
            world_size,
            int(environment.get("LOCAL_WORLD_SIZE", world_size)),
        )
    if int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in environment:
        world_size = int(environment["SLURM_STEP_NUM_TASKS"])
        nodes = int(environment.get("SLURM_STEP_NUM_NODES", 1))
        if world_size % nodes:
            raise InputError(
                f"srun: {world_size} tasks do not divide evenly over {nodes} nodes; set --ntasks-per-node"
            )
        rank, local_rank = int(environment["SLURM_PROCID"]), int(environment["SLURM_LOCALID"])
        local_size = world_size // nodes
        if rank % local_size != local_rank:
            raise InputError(
                f"srun: task {rank} is number {local_rank} on its node, expected {rank % local_size}; the "
                "tasks of a node must be consecutive: add --distribution=block and --ntasks-per-node"
            )
        return ProcessPlace(rank, local_rank, world_size, local_size)
    if environment.get("WORLD_SIZE", "1") not in ("", "0", "1"):
        # Each process would train alone, all into the same folder.
        raise InputError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']} in the environment, but {', '.join(missing)} is not "
            "set; start the processes with torchrun or srun, or unset WORLD_SIZE for a single process"
        )
    return None


def _rendezvous_from_environment(environment: Mapping[str, str]) -> str:
    """Return the init method: torchrun's variables, or an address derived from the SLURM step."""
    if "MASTER_ADDR" in environment and "MASTER_PORT" in environment:
        return "env://"
    host = _first_host(environment.get("SLURM_STEP_NODELIST", "127.0.0.1"))
    # Above the ports of services, below the ephemeral ones; differs by job and by step.
    step = int(environment.get("SLURM_JOB_ID", 0)) * 37 + int(environment.get("SLURM_STEP_ID", 0))
    return f"tcp://{host}:{15000 + step % 15000}"


def _first_host(nodes: str) -> str:
    """Return the first host of a SLURM node list: rack[1-2]node[003,007] begins with rack1node003."""
    first = re.match(r"([^,\[]|\[[^\]]*\])*", nodes).group()
    return re.sub(r"\[(\w*)[^\]]*\]", r"\1", first)


def _check_numbers(num_gpus: int, num_machines: int, machine_rank: int, dist_url: str, on_gpu: bool) -> None:
    if num_gpus < 1 or num_machines < 1:
        raise InputError(f"--num-gpus {num_gpus} --num-machines {num_machines}: both must be at least 1")
    if not 0 <= machine_rank < num_machines:
        raise InputError(
            f"--machine-rank {machine_rank} is outside 0..{num_machines - 1} of --num-machines {num_machines}"
        )
    visible = torch.cuda.device_count()
    if on_gpu and num_gpus > visible:
        machines = -(-num_gpus * num_machines // visible)
        raise InputError(f"--num-gpus {num_gpus} but {visible} visible; use --num-machines {machines}.")
    if num_machines > 1 and dist_url == "auto":
        raise InputError(
            f"--num-machines {num_machines} needs the address of machine 0, the same on every machine: "
            "add --dist-url tcp://HOST:PORT"
        )
    if dist_url.startswith("tcp://") and re.fullmatch(r"tcp://.+:\d{1,5}", dist_url) is None:
        raise InputError(f"--dist-url {dist_url}: expected tcp://HOST:PORT")
    if dist_url.startswith("tcp://") and not 0 < int(dist_url.rpartition(":")[2]) < 1 << 16:
        raise InputError(f"--dist-url {dist_url}: expected a port from 1 to 65535")


def _spawn(main, args, places, dist_url, store_port, on_gpu, timeout) -> None:
    """Run one child for each of `places`, wait, and raise the error of a child that has explained it."""
    threads = max(1, free_processors() // len(places))
    with tempfile.TemporaryDirectory(prefix="segzoo_launch_") as error_folder, user_thread_setting():
        arguments = (main, args, places, dist_url, store_port, on_gpu, timeout, error_folder)
        # Its warnings about processes that it terminates would precede the line that explains why.
        logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
        added = [name for name in OPENMP_SETTINGS if name not in os.environ]
        # OpenMP reads them when the child starts. The children share the cores unless the user set a number.
        if not os.environ.get("OMP_NUM_THREADS"):
            os.environ["OMP_NUM_THREADS"] = str(threads)
        configure_openmp()
        signals = None
        try:
            process_ids: list[int] = []
            with forward_signals(process_ids) as signals:
                # Ctrl-C reaches the children too, which have no handlers yet.
                with job_signals_blocked():
                    children = mp.start_processes(
                        _child, arguments, nprocs=len(places), start_method="spawn", join=False
                    )
                add_children(process_ids, children.pids(), signals)
                while not children.join():
                    pass
            _raise_cause(_read_reports(Path(error_folder)))
        except (mp.ProcessRaisedException, mp.ProcessExitedException) as failure:
            reports = _read_reports(Path(error_folder))
            is_signaled = signals is not None and signals.received is not None
            # Otherwise the launcher itself has sent the others SIGTERM.
            _raise_cause(reports, LostProcessError, *(() if is_signaled else (StoppedBySignal,)))
            if is_signaled and hasattr(failure, "signal_name"):
                stopped = signals.stopped("stopped while starting; there was nothing to save")
                logger.info("%s", stopped)
                raise stopped from None
            rank = places[failure.error_index].rank
            if getattr(failure, "signal_name", None) == signal.Signals.SIGKILL.name:
                raise LostProcessError(
                    f"process {rank} was killed (SIGKILL), which the system does when memory runs out; the "
                    "others were ended. Lower SOLVER.IMS_PER_BATCH or raise SOLVER.ACCUMULATE."
                ) from failure
            if getattr(failure, "signal_name", None):
                raise LostProcessError(
                    f"process {rank} was ended by {failure.signal_name}, and the others with it; "
                    "its last output is above"
                ) from failure
            if lost := reports.get(rank):
                raise lost from None
            raise
        finally:
            for name in added:
                os.environ.pop(name, None)


def _read_reports(error_folder: Path) -> dict[int, BaseException]:
    """Return the errors that children have reported, by rank."""
    reports = {}
    for path in error_folder.glob("*.json"):
        report = json.loads(path.read_text(encoding="utf-8"))
        reports[int(path.stem)] = EXPLAINED_ENDS[report["error"]](*report["arguments"])
    return reports


def _raise_cause(reports: Mapping[int, BaseException], *effects: type[BaseException]) -> None:
    """Raise the reported error of the lowest rank, if any, that is none of `effects` of another error."""
    for _, end in sorted(reports.items()):
        if not isinstance(end, effects):
            raise end from None


def _child(index, main, args, places, dist_url, store_port, on_gpu, timeout, error_folder) -> None:
    unblock_signals()
    place = places[index]
    store = None
    if store_port is not None:
        store = dist.TCPStore("127.0.0.1", store_port, None, is_master=False, timeout=timeout)
    try:
        _join(place, dist_url, store, on_gpu, timeout)
        with lost_processes_explained(place.rank):
            main(*args)
    except tuple(EXPLAINED_ENDS.values()) as error:
        logger.debug("%s", error)
        if isinstance(error, LostProcessError):
            time.sleep(_WAIT_FOR_CAUSE)
        error_type = next(name for name, end in EXPLAINED_ENDS.items() if isinstance(error, end))
        report = {"error": error_type, "arguments": error.args}
        write_text(Path(error_folder, f"{place.rank}.json"), json.dumps(report), durable=False)
        # The failure of a process ends the others; a process stopped by a signal lets them finish.
        if not isinstance(error, StoppedBySignal):
            raise
    # Not after a failure: the parent must see the process that failed before its peers fail.
    leave_process_group()
    end_process()


def _join(place: ProcessPlace, url: str, store: dist.Store | None, on_gpu: bool, timeout: timedelta) -> None:
    """Join the process group and create Detectron2's local groups; every process calls it."""
    if on_gpu:
        visible = torch.cuda.device_count()
        if place.local_size > visible and visible > 1:
            raise InputError(f"{place.local_size} processes on this machine but {visible} GPUs visible")
        # Where each task sees only its own GPU, it is device 0.
        torch.cuda.set_device(place.local_rank % visible)
    elif place.world_size > place.local_size and "GLOO_SOCKET_IFNAME" not in os.environ:
        meeting_place = f"tcp://{os.environ.get('MASTER_ADDR')}:1" if url == "env://" else url
        if interface := interface_towards(meeting_place):
            os.environ["GLOO_SOCKET_IFNAME"] = interface
    dist.init_process_group(
        backend="nccl" if on_gpu else "gloo",
        init_method=None if store is not None else url,
        store=store,
        world_size=place.world_size,
        rank=place.rank,
        timeout=timeout,
    )
    # Detectron2 v0.6 gathers objects through a deprecated storage class: a warning in every process.
    warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(place.local_size)
        return
    # In Detectron2 v0.6 its own launcher does this: every process creates every group and keeps its own.
    for first in range(0, place.world_size, place.local_size):
        group = dist.new_group(list(range(first, first + place.local_size)))
        if first <= place.rank < first + place.local_size:
            comm._LOCAL_PROCESS_GROUP = group
