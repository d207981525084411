"""What runs in each task of a job: `segzoo train`, and what is to be done when it has ended."""

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
from .slurm import takes_back

# The exit status of a training that was stopped.
TIME_IS_UP = EXIT_STATUS[signal.SIGUSR2]
CANCELLED = EXIT_STATUS[signal.SIGTERM]


class TrainingJob:
    """A run of a job as submitit pickles it; each task calls it, at each start of the job.

    It ends the process with the exit status of the training. Results are in `state/`, not in submitit's.
    """

    def __init__(self, folder: Path, run: Run, requeues: int, processes: int = 1):
        """
        Args:
            folder: the job's, absolute.
            requeues: how often the run may requeue itself.
            processes: that the training starts itself; 1 where there is a task for each.
        """
        self._folder = folder
        self._run = run
        self._requeues = requeues
        self._processes = processes

    def __call__(self) -> None:
        sys.exit(self.run())

    def checkpoint(self) -> DelayedSubmission:
        """For submitit: what is requeued by a signal that arrives before the training waits for any."""
        return DelayedSubmission(self)

    def run(self) -> int:
        """Train, requeue what was stopped because its time was up, and return the exit status."""
        from .. import train

        main_task = task() == 0
        path = state_file(self._folder, self._run.index)
        state = read_state(path)
        # The number of the start, the same in all tasks of SLURM, which does not set it in the first.
        again = int(os.environ.get("SLURM_RESTART_COUNT", 0)) if cluster() == "slurm" else state.starts
        arguments = ["--debug", *self._run.arguments]
        if self._processes > 1:
            arguments = ["--num-gpus", str(self._processes), *arguments]
        if again and self._run.max_iter and "--resume" not in arguments:
            arguments = ["--resume", *arguments]
        state.starts, state.phase, state.error, state.process = state.starts + 1, "running", "", os.getpid()
        if main_task:
            write_state(path, state)
            self._forget_errors_but_of(again)
        try:
            status = train.main(arguments)
        except Exception as error:
            status = self._failed(error, again)
            state.phase, state.error = "failed", one_line(error)
        else:
            if main_task and status == CANCELLED and cluster() == "slurm":
                # Preemption comes as SIGTERM, too, unless SLURM is set up to send another signal.
                status = TIME_IS_UP if takes_back(submitit.JobEnvironment().job_id) else CANCELLED
            state.phase = {0: "done", TIME_IS_UP: "requeued"}.get(status, "stopped")
            if state.phase == "stopped":
                state.error = "cancelled; --resume goes on from its last checkpoint"
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
        """Shows an error and keeps one line of it, whichever task it is in; returns the exit status."""
        from segzoo.engine import NonFiniteLossError
        from segzoo.engine.distributed.peer_failure import LostProcessError
        from segzoo.utils.errors import InputError

        if isinstance(error, InputError | NonFiniteLossError):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exception(error)
        # That another process is gone explains nothing: it has a file of its own, or the log tells.
        if not isinstance(error, LostProcessError):
            errors = error_file(self._folder, self._run.index, start, task())
            errors.parent.mkdir(parents=True, exist_ok=True)
            errors.write_text(one_line(error), encoding="utf-8")
        return 2 if isinstance(error, InputError) else 1

    def _forget_errors_but_of(self, start: int) -> None:
        for path in error_file(self._folder, self._run.index, start, 0).parent.glob("*_*.txt"):
            if not path.name.startswith(f"{start}_"):
                path.unlink(missing_ok=True)

    def _requeue(self, path: Path, state: State) -> int:
        """Returns the exit status."""
        print(f"requeue {state.requeues} of {self._requeues} allowed", flush=True)
        if cluster() == "local":
            return LOCAL_REQUEUE_RETURN_CODE
        # submitit's name of an array's task, 12_1: SLURM's own may be that of the whole array.
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
    """What has started this process: slurm, local or, without submitit's help, debug."""
    return os.environ.get("SUBMITIT_EXECUTOR", "debug")


def task() -> int:
    """The number of this task among all of the job."""
    return 0 if cluster() == "debug" else submitit.JobEnvironment().global_rank


def error_file(folder: Path, index: int, start: int, task: int) -> Path:
    return folder / "state" / f"{index}.errors" / f"{start}_{task}.txt"


def one_line(error: Exception) -> str:
    """The type and the last line of the message; of an explained error the message."""
    text = str(error).strip().splitlines() or [""]
    if type(error).__name__ in ("InputError", "NonFiniteLossError"):
        return " ".join(text)
    # An error of a process that the training has started ends with that process's own.
    return (
        text[-1] if type(error).__name__ == "ProcessRaisedException" else f"{type(error).__name__}: {text[0]}"
    )
