"""The status of a job's runs: state, iteration, time left, last metric, and why a run has ended."""

import datetime
import json
import os
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from .files import Job, Run, State, log_file, read_job, read_state, state_file
from .slurm import ACTIVE, SlurmState, slurm_states

# States of a run that may still continue.
OPEN = {"waiting", "running", "unknown"}
FINAL_PHASES = {"done", "failed", "stopped"}
# The metric to show if the configuration names none: the first that an evaluation has reported.
MAIN_METRICS = ("PQ", "mIoU", "AP")


@dataclass(frozen=True)
class RunStatus:
    """The status of a run, one line of the table; see `table`."""

    run: Run
    state: str
    note: str = ""
    iteration: int | None = None
    eta_seconds: float | None = None
    metric: str = ""


def run_statuses(folder: Path) -> list[RunStatus]:
    """Return the status of each run of a job.

    Raises:
        InputError: `folder` is not a job's.
    """
    job = read_job(folder)
    slurm: dict[str, SlurmState] = {}
    if job.cluster == "slurm" and job.runs:
        slurm = slurm_states([run.job_id for run in job.runs])
    return [_run_status(folder, job, run, slurm.get(run.job_id)) for run in job.runs]


def table(lines: list[RunStatus]) -> str:
    """Return a table for a terminal, and below it the reasons why runs have ended."""
    rows = [
        [
            line.run.name,
            line.run.job_id,
            line.state,
            _iteration(line),
            "" if line.eta_seconds is None else datetime.timedelta(seconds=int(line.eta_seconds)),
            line.metric,
            line.note if line.state in OPEN else "",
        ]
        for line in lines
    ]
    header = ["run", "job", "state", "iteration", "eta", "last metric", ""]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    reasons = [
        f"{line.run.name} {line.state}: {line.note}" for line in lines if line.note and line.state not in OPEN
    ]
    return "\n".join([tabulate(rows, header, tablefmt="simple", disable_numparse=True), *reasons])


def _iteration(line: RunStatus) -> str:
    if line.run.max_iter == 0:
        return "(test)"
    return f"{line.iteration or 0}/{line.run.max_iter}"


def _run_status(folder: Path, job: Job, run: Run, slurm: SlurmState | None) -> RunStatus:
    own = read_state(state_file(folder, run.index))
    if job.cluster == "slurm":
        state, note = _slurm_state(own, slurm)
    else:
        state, note = _local_state(own, run)
    if state not in OPEN | {"done"}:
        cause = _first_error(folder, run)
        # When a task fails, the others end too, as if cancelled or with an error about the lost peer.
        state = "failed" if cause and state == "stopped" else state
        note = cause or own.error or _last_line(folder, run) or note
    if own.requeues and state in OPEN:
        note = f"requeued {own.requeues}x{f', {note}' if note else ''}"
    progress = _progress(run)
    eta = progress.get("eta_seconds") if state == "running" else None
    iteration = progress["iteration"] + 1 if "iteration" in progress else None
    return RunStatus(run, state, note, iteration, eta, _metric(run, progress))


def _slurm_state(own: State, slurm: SlurmState | None) -> tuple[str, str]:
    """Return state and note: SLURM's for a run that may still continue, else the run's own."""
    ending = slurm is None or slurm.name == "COMPLETING"
    if slurm is not None and slurm.name in ACTIVE and not (ending and own.phase in FINAL_PHASES):
        if slurm.name in ("RUNNING", "COMPLETING"):
            return ("running" if own.phase == "running" else "waiting"), ""
        return "waiting", slurm.reason or slurm.name.lower()
    if own.phase in FINAL_PHASES:
        return own.phase, ""
    if slurm is not None:
        return slurm.name.lower(), slurm.reason
    if own.phase == "waiting":
        return "unknown", "SLURM does not know the job"
    return "lost", "ended without a message; SLURM no longer knows the job"


def _local_state(own: State, run: Run) -> tuple[str, str]:
    if own.phase in FINAL_PHASES:
        return own.phase, ""
    if _alive(int(run.job_id)):
        return ("running" if own.phase == "running" else "waiting"), ""
    return "lost", "its process is gone"


def _alive(process: int) -> bool:
    try:
        if os.waitpid(process, os.WNOHANG)[0]:
            return False
    except ChildProcessError:
        pass  # Not started by this process.
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # Someone else's.
    return True


def _first_error(folder: Path, run: Run) -> str:
    """Return the first error that a task of the last start has recorded, "" for none."""
    errors = list((folder / "state" / f"{run.index}.errors").glob("*_*.txt"))
    last_start = max((int(path.stem.partition("_")[0]) for path in errors), default=0)
    of_last = [path for path in errors if path.stem.startswith(f"{last_start}_")]
    return min(of_last, key=lambda path: path.stat().st_mtime).read_text(encoding="utf-8") if of_last else ""


def _last_line(folder: Path, run: Run) -> str:
    """Return the last line of the log, "" for none."""
    lines = [line for line in _tail(log_file(folder, run)).splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _tail(path: Path, size: int = 20_000) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _progress(run: Run) -> dict:
    """Return the last value of each entry of metrics.json."""
    values: dict = {}
    path = Path(run.output, "metrics.json")
    for text in path.read_text(encoding="utf-8").splitlines() if run.max_iter and path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # Being written.
        if isinstance(line, dict):
            values |= line
    return values


def _metric(run: Run, progress: dict) -> str:
    """Return the last value of TEST.BEST_METRIC, else of an evaluation's main metric, else of the loss."""
    if not run.max_iter:
        progress = _test_results(run)
    if run.metric in progress:
        return f"{run.metric} {progress[run.metric]:.2f}"
    for name in MAIN_METRICS:
        for key, value in progress.items():
            if "/" in key and key.rpartition("/")[2] == name:
                return f"{key} {value:.2f}"
    return f"loss {progress['total_loss']:.4g}" if "total_loss" in progress else ""


def _test_results(run: Run) -> dict:
    """Return the numbers of inference/results.json by names such as sem_seg/mIoU."""
    try:
        results = json.loads(Path(run.output, "inference", "results.json").read_text(encoding="utf-8"))[
            "results"
        ]
        return {
            f"{dataset}/{task}/{name}" if len(results) > 1 else f"{task}/{name}": value
            for dataset, tasks in results.items()
            for task, metrics in tasks.items()
            for name, value in metrics.items()
            if isinstance(value, int | float)
        }
    except (OSError, ValueError, KeyError, AttributeError):
        return {}
