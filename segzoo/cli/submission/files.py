"""The files of a job folder: the submitted job (job.json), and the state of each run (state/<index>.json)."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text


@dataclass
class Run:
    """One training or evaluation of a job.

    Attributes:
        index: its position in the job, from 0; in an array also SLURM's task index.
        name: unique in the job.
        arguments: those of `segzoo train`.
        output: OUTPUT_DIR, absolute.
        max_iter: iterations of the training; 0 for an evaluation.
        metric: TEST.BEST_METRIC, "" for none.
        job_id: SLURM's, "12" or "12_0"; a process id on this machine; "" before it is submitted.
    """

    index: int
    name: str
    arguments: list[str]
    output: str
    max_iter: int = 0
    metric: str = ""
    job_id: str = ""


@dataclass
class Job:
    """A job that `segzoo submit` has submitted.

    Attributes:
        cluster: slurm, local or debug.
        submitted: ISO time.
        command: the command line.
        cwd: the folder in which it was given.
        commit: git commit of the code; "" if unknown.
    """

    cluster: str
    submitted: str
    command: list[str]
    cwd: str
    commit: str = ""
    runs: list[Run] = field(default_factory=list)


@dataclass
class State:
    """The state of a run, as its main process last wrote it.

    Attributes:
        phase: "waiting", "running", "requeued", "stopped", "done" or "failed".
        starts: number of times it was started.
        requeues: number of times it has requeued itself.
        error: the line that explains a failure.
        process: id of the main process, 0 before it starts.
    """

    phase: str = "waiting"
    starts: int = 0
    requeues: int = 0
    error: str = ""
    process: int = 0


def job_file(folder: Path) -> Path:
    return folder / "job.json"


def state_file(folder: Path, index: int) -> Path:
    return folder / "state" / f"{index}.json"


def log_folder(folder: Path) -> Path:
    return folder / "logs"


def log_file(folder: Path, run: Run) -> Path:
    """Return the log file of the main process of a submitted run."""
    return log_folder(folder) / f"{run.job_id}_0_log.out"


def write_job(folder: Path, job: Job) -> None:
    _write(job_file(folder), asdict(job))


def read_job(folder: Path) -> Job:
    """Return the job of a job folder; raise InputError if `folder` is none."""
    path = job_file(folder)
    if not path.is_file():
        raise InputError(f"--status {folder}: no job.json in it; give the --job-dir of a submitted job")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Job(**{**document, "runs": [Run(**run) for run in document["runs"]]})
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a job's description ({error}); submit the job again") from None


def write_state(path: Path, state: State) -> None:
    _write(path, asdict(state))


def read_state(path: Path) -> State:
    """Return the state in a file, or the default state if the file is missing or unreadable."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return State()
    known = {entry.name for entry in fields(State)}
    return State(**{name: value for name, value in document.items() if name in known})


def _write(path: Path, document: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(document, indent=1), durable=False)
