"""The program of each task of a job: `segzoo train`, and the requeueing afterwards."""

import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import submitit
from submitit.core.utils import DelayedSubmission
from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

from segzoo.utils.exit_status import EXIT_STATUS

from .files import Run, State, read_state, state_file, write_state
from .slurm import is_stopped_by_slurm

# The exit status of a training that was stopped.
TIME_IS_UP = EXIT_STATUS[signal.SIGUSR2]
CANCELLED = EXIT_STATUS[signal.SIGTERM]


class TrainingJob:
    """A run of a job as submitit pickles it; each task calls it, at each start of the job.

    It exits with the status of the training. Its state is in `state/`, not in the files of submitit.
    """

    def __init__(self, folder: Path, run: Run, requeues: int, processes: int = 1):
        """
        Args:
            folder: the job folder, absolute.
            requeues: number of times the run may requeue itself.
            processes: number of processes that the training starts; 1 if each has its own task.
        """
        self._folder = folder
        self._run = run
        self._requeues = requeues
        self._processes = processes

    def __call__(self) -> None:
        sys.exit(self.run())

    def checkpoint(self) -> DelayedSubmission:
        """Return what submitit requeues if a signal arrives before the training handles signals."""
        return DelayedSubmission(self)

    def run(self) -> int:
        """Train, requeue the run if its time was up, and return the exit status."""
        from .. import train

        main_task = task() == 0
        path = state_file(self._folder, self._run.index)
        state = read_state(path)
        # The same in all tasks; SLURM sets it from the first restart on.
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0)) if cluster() == "slurm" else state.starts
        arguments = ["--debug", *self._run.arguments]
        if self._processes > 1:
            arguments = ["--num-gpus", str(self._processes), *arguments]
        if restarts and self._run.max_iter and "--resume" not in arguments:
            arguments = ["--resume", *arguments]
        state.starts, state.phase, state.error, state.process = state.starts + 1, "running", "", os.getpid()
        if main_task:
            write_state(path, state)
            self._remove_errors_except(restarts)
        try:
            status = train.main(arguments)
        except Exception as error:
            status = self._failed(error, restarts)
            state.phase, state.error = "failed", one_line(error)
        else:
            if main_task and status == CANCELLED and cluster() == "slurm":
                # Preemption sends SIGTERM too, unless SLURM is configured to send another signal.
                by_slurm = is_stopped_by_slurm(submitit.JobEnvironment().job_id)
                status = TIME_IS_UP if by_slurm else CANCELLED
            state.phase = {0: "done", TIME_IS_UP: "requeued"}.get(status, "stopped")
            if state.phase == "stopped":
                state.error = "cancelled; --resume continues from its last checkpoint"
        if not main_task:
            # The main task requeues; a status other than 0 might end it before it has.
            return 0 if status in (TIME_IS_UP, CANCELLED) else status
        if state.phase == "requeued" and state.requeues >= self._requeues:
            state.phase = "stopped"
            state.error = (
                "its time is up, or it was preempted, and it has been requeued "
                f"{state.requeues} times (--requeues)"
            )
        elif state.phase == "requeued":
            state.requeues += 1
        write_state(path, state)
        return self._requeue(path, state) if state.phase == "requeued" else status

    def _failed(self, error: Exception, start: int) -> int:
        """Print an error and record it in one line, for any task; return the exit status."""
        from segzoo.engine import NonFiniteLossError
        from segzoo.engine.distributed.peer_failure import LostProcessError
        from segzoo.utils.errors import InputError

        if isinstance(error, InputError | NonFiniteLossError):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exception(error)
        # A lost peer explains nothing: the peer records its own error, or the log shows it.
        if not isinstance(error, LostProcessError):
            errors = error_file(self._folder, self._run.index, start, task())
            errors.parent.mkdir(parents=True, exist_ok=True)
            errors.write_text(one_line(error), encoding="utf-8")
        return 2 if isinstance(error, InputError) else 1

    def _remove_errors_except(self, start: int) -> None:
        for path in error_file(self._folder, self._run.index, start, 0).parent.glob("*_*.txt"):
            if not path.name.startswith(f"{start}_"):
                path.unlink(missing_ok=True)

    def _requeue(self, path: Path, state: State) -> int:
        """Requeue the run; return the exit status."""
        print(f"requeue {state.requeues} of {self._requeues} allowed", flush=True)
        if cluster() == "local":
            return LOCAL_REQUEUE_RETURN_CODE
        # submitit's id of an array task, 12_1: SLURM's own may be that of the whole array.
        command = ["scontrol", "requeue", submitit.JobEnvironment().job_id]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return 0
        state.phase = "stopped"
        state.error = f"{' '.join(command)}: {' '.join((done.stderr or done.stdout).split())}"
        print(state.error, file=sys.stderr)
        write_state(path, state)
        return TIME_IS_UP


def cluster() -> str:
    """Return what has started this process: slurm, local, or debug without submitit."""
    return os.environ.get("SUBMITIT_EXECUTOR", "debug")


def task() -> int:
    """Return the rank of this task in the job."""
    return 0 if cluster() == "debug" else submitit.JobEnvironment().global_rank


def error_file(folder: Path, index: int, start: int, task: int) -> Path:
    return folder / "state" / f"{index}.errors" / f"{start}_{task}.txt"


def one_line(error: Exception) -> str:
    """Return an error in one line: type and first line of its message, or for an InputError the message."""
    text = str(error).strip().splitlines() or [""]
    if type(error).__name__ in ("InputError", "NonFiniteLossError"):
        return " ".join(text)
    # The message of a ProcessRaisedException ends with the error of the child process.
    return (
        text[-1] if type(error).__name__ == "ProcessRaisedException" else f"{type(error).__name__}: {text[0]}"
    )
