"""SLURM's view of jobs, from scontrol, and from sacct for those that scontrol has forgotten."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

# Of a job that may still run, or run again.
ACTIVE = {
    "PENDING",
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SPECIAL_EXIT",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
}


@dataclass(frozen=True)
class SlurmState:
    """`name` as PENDING or TIMEOUT; `reason`, of waiting or failing, may be ""."""

    name: str
    reason: str = ""


def slurm_states(job_ids: Sequence[str]) -> dict[str, SlurmState]:
    """The states of a job, or of runs of one array, by "12" or "12_0"; without those that are unknown."""
    main_id = job_ids[0].partition("_")[0]
    states = parse_scontrol(_output("scontrol", "-o", "show", "job", main_id))
    # It forgets a job minutes after its end. The database of the others is slow, and asked only then.
    if not states.keys() >= set(job_ids):
        columns = "JobID,State,Reason"
        states = parse_sacct(_output("sacct", "-n", "-P", "-X", "-j", main_id, "-o", columns)) | states
    return states


def takes_back(job_id: str) -> bool:
    """Whether SLURM ends a job that runs because it needs its place, or because its time is up.

    A job that a user cancels is no such job.
    """
    facts = _output("scontrol", "-o", "show", "job", job_id)
    return re.search(r"\bPreemptTime=\d|\bReason=TimeLimit\b", facts) is not None


def parse_scontrol(text: str) -> dict[str, SlurmState]:
    """Reads `scontrol -o show job`: a line of KEY=VALUE for each job."""
    states = {}
    for line in text.splitlines():
        facts = dict(re.findall(r"(\w+)=(\S*)", line))
        if "JobState" not in facts:
            continue
        reason = facts.get("Reason", "None")
        state = SlurmState(facts["JobState"], "" if reason == "None" else reason)
        for job_id in _ids(facts.get("ArrayJobId"), facts.get("ArrayTaskId"), facts.get("JobId", "")):
            states[job_id] = state
    return states


def parse_sacct(text: str) -> dict[str, SlurmState]:
    """Reads `sacct -n -P -o JobID,State,Reason`."""
    states = {}
    for line in text.splitlines():
        job_id, _, rest = line.partition("|")
        name, _, reason = rest.partition("|")
        match = re.fullmatch(r"(\d+)(?:_\[?([^\]]+)\]?)?", job_id)
        if match and name:
            # "CANCELLED by 1000"
            state = SlurmState(name.split()[0], "" if reason in ("None", "") else reason)
            states.update(dict.fromkeys(_ids(match[1] if match[2] else None, match[2], match[1]), state))
    return states


def _ids(array: str | None, tasks: str | None, job: str) -> list[str]:
    """12 and "0,2-3%1" as 12_0, 12_2, 12_3: runs that wait share a line."""
    if not array or not tasks:
        return [job]
    ids = []
    for part in tasks.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            ids += [f"{array}_{index}" for index in range(int(first), int(last or first) + 1)]
    return ids


def _output(*command: str) -> str:
    """What a command prints; "" where there is no such command, or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
