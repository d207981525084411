"""Submitting runs through submitit, to SLURM or to processes of this machine."""

import argparse
import contextlib
import io
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from submitit import LocalExecutor, SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from segzoo.utils.errors import InputError
from segzoo.utils.threads import user_thread_setting

from .files import Run, log_folder
from .job import TrainingJob

# The script that each node starts, in the snapshot of the code.
START = Path("segzoo", "cli", "submission", "start.py")

# sbatch is there, and a cluster is not.
_NO_CONTROLLER = re.compile(
    r"resolve_ctls_from_dns_srv|configuration source|contact slurm controller|Connection refused",
    re.IGNORECASE,
)


class ScriptWriter(SlurmExecutor):
    """An executor that writes scripts on machines without SLURM too."""

    @classmethod
    def affinity(cls) -> int:
        return 1


def python_command(snapshot: Path) -> str:
    """Return the command that submitit runs as Python: this interpreter, with the snapshot's code."""
    return shlex.join([sys.executable, "-u", str(snapshot / START)])


def sbatch_script(options: argparse.Namespace, folder: Path, runs: Sequence[Run]) -> str:
    """Return the script that would be passed to sbatch."""
    executor = _slurm(ScriptWriter, options, folder)
    if len(runs) > 1:
        executor.parameters["map_count"] = len(runs)
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def submit(options: argparse.Namespace, folder: Path, runs: Sequence[Run]) -> None:
    """Submit all runs as one job, and set their job ids.

    Raises:
        InputError: sbatch refuses it, or there is no SLURM.
    """
    if options.cluster == "slurm":
        try:
            executor = _slurm(SlurmExecutor, options, folder)
        except RuntimeError:
            raise InputError(
                "--cluster slurm: no srun on this machine; submit on a login node, or use --cluster local"
            ) from None
        processes = 1
    else:
        executor = _local(options, folder)
        processes = options.tasks_per_node or options.gpus_per_node or 1
    tasks = [TrainingJob(folder, run, options.requeues, processes) for run in runs]
    try:
        # The job gets this environment, but other processors. submitit prints the errors of sbatch, which are
        # in the exception too.
        with (
            _sigint_ignored(),
            user_thread_setting(),
            contextlib.redirect_stderr(io.StringIO()),
            executor.batch(),
        ):
            jobs = [executor.submit(task) for task in tasks]
    except (FailedJobError, FailedSubmissionError) as error:
        reason = _reason(str(error))
        remedy = "; --cluster local runs it on this machine" if _NO_CONTROLLER.search(reason) else ""
        raise InputError(f"sbatch refuses the job: {reason}{remedy}") from None
    for run, job in zip(runs, jobs, strict=True):
        run.job_id = str(job.job_id)


def _slurm(kind: type[SlurmExecutor], options: argparse.Namespace, folder: Path) -> SlurmExecutor:
    executor = kind(
        log_folder(folder), max_num_timeout=options.requeues, python=python_command(folder / "snapshot")
    )
    # Since SLURM 22.05, srun does not inherit it from the job.
    srun = [f"--cpus-per-task={options.cpus_per_task}"] if options.cpus_per_task else []
    executor.update_parameters(
        job_name=options.name,
        nodes=options.nodes,
        ntasks_per_node=options.tasks_per_node or options.gpus_per_node or 1,
        gpus_per_node=options.gpus_per_node or None,
        cpus_per_task=options.cpus_per_task,
        mem=options.mem,
        partition=options.partition,
        account=options.account,
        qos=options.qos,
        constraint=options.constraint,
        comment=options.comment,
        time=options.time,
        signal_delay_s=options.signal_delay,
        stderr_to_stdout=True,
        array_parallelism=options.at_once,
        wckey=None,
        # A task that fails ends the others, which would wait for it.
        srun_args=[*srun, "--kill-on-bad-exit=1"],
        additional_parameters={"requeue": True},
    )
    return executor


def _local(options: argparse.Namespace, folder: Path) -> LocalExecutor:
    executor = LocalExecutor(
        log_folder(folder), max_num_timeout=options.requeues, python=python_command(folder / "snapshot")
    )
    executor.update_parameters(
        timeout_min=options.time,
        tasks_per_node=1,
        gpus_per_node=options.gpus_per_node,
        signal_delay_s=options.signal_delay,
        stderr_to_stdout=True,
    )
    return executor


@contextlib.contextmanager
def _sigint_ignored() -> Iterator[None]:
    """Ignore SIGINT, so that processes started inside survive the user's Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _reason(text: str) -> str:
    """Return the errors of sbatch in one line, without their prefixes and without repetitions."""
    lines = re.findall(r"sbatch: (?:error|fatal): (.+)", text) or [text.strip()]
    return "; ".join(dict.fromkeys(line.strip() for line in lines))
