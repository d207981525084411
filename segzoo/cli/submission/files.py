"""The files of a job folder: what was submitted (job.json), and how each run stands (state/<index>.json)."""

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
        index: of its row, from 0; in an array also SLURM's.
        name: unique in the job.
        arguments: those of `segzoo train`.
        output: OUTPUT_DIR, absolute.
        max_iter: iterations of the training; 0 for an evaluation.
        metric: TEST.BEST_METRIC, "" for none.
        job_id: SLURM's, "12" or "12_0"; on this machine a process id; "" before it is submitted.
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
    """What `segzoo submit` has submitted.

    Attributes:
        cluster: slurm, local or debug.
        submitted: ISO time.
        command: the command line, and `cwd` the folder it was given in.
        commit: of the code; "" if unknown.
    """

    cluster: str
    submitted: str
    command: list[str]
    cwd: str
    commit: str = ""
    runs: list[Run] = field(default_factory=list)


@dataclass
class State:
    """How a run stands, as its main process last said.

    Attributes:
        phase: "waiting", "running", "requeued", "stopped", "done" or "failed".
        starts: how often it was started.
        requeues: how often it has requeued itself.
        error: the one line that explains a failure.
        process: of the main process, 0 before.
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
    """The log of the main process of a run that was submitted."""
    return log_folder(folder) / f"{run.job_id}_0_log.out"


def write_job(folder: Path, job: Job) -> None:
    _write(job_file(folder), asdict(job))


def read_job(folder: Path) -> Job:
    """Raises InputError where `folder` is not a job's."""
    path = job_file(folder)
    if not path.is_file():
        raise InputError(f"--status {folder}: no job.json in it; give the --job-dir of a submitted job")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Job(**{**document, "runs": [Run(**run) for run in document["runs"]]})
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a job's description ({error}); submit the job anew") from None


def write_state(path: Path, state: State) -> None:
    _write(path, asdict(state))


def read_state(path: Path) -> State:
    """The default state if nothing, or nothing readable, was written."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return State()
    known = {entry.name for entry in fields(State)}
    return State(**{name: value for name, value in document.items() if name in known})


def _write(path: Path, document: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(document, indent=1), durable=False)
