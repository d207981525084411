"""The states of SLURM jobs, from scontrol, and from sacct for those that scontrol has dropped."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

# States of a job that may still run, or run again.
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
    """The state of a job: `name` such as PENDING, and `reason` for waiting or failing, which may be ""."""

    name: str
    reason: str = ""


def slurm_states(job_ids: Sequence[str]) -> dict[str, SlurmState]:
    """Return {job id, "12" or "12_0": state} of a job or of runs of one array, without unknown ones."""
    main_id = job_ids[0].partition("_")[0]
    states = parse_scontrol(_output("scontrol", "-o", "show", "job", main_id))
    # scontrol drops a job minutes after its end. The database of sacct is slow, so it is queried only then.
    if not states.keys() >= set(job_ids):
        columns = "JobID,State,Reason"
        states = parse_sacct(_output("sacct", "-n", "-P", "-X", "-j", main_id, "-o", columns)) | states
    return states


def is_stopped_by_slurm(job_id: str) -> bool:
    """Return whether SLURM, not a user, ends a running job: by preemption or at its time limit."""
    text = _output("scontrol", "-o", "show", "job", job_id)
    return re.search(r"\bPreemptTime=\d|\bReason=TimeLimit\b", text) is not None


def parse_scontrol(text: str) -> dict[str, SlurmState]:
    """Parse the output of `scontrol -o show job`: a line of KEY=VALUE for each job."""
    states = {}
    for line in text.splitlines():
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        if "JobState" not in fields:
            continue
        reason = fields.get("Reason", "None")
        state = SlurmState(fields["JobState"], "" if reason == "None" else reason)
        for job_id in _ids(fields.get("ArrayJobId"), fields.get("ArrayTaskId"), fields.get("JobId", "")):
            states[job_id] = state
    return states


def parse_sacct(text: str) -> dict[str, SlurmState]:
    """Parse the output of `sacct -n -P -o JobID,State,Reason`."""
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
    """Return the ids of array tasks: 12 and "0,2-3%1" give 12_0, 12_2, 12_3. Pending runs share a line."""
    if not array or not tasks:
        return [job]
    ids = []
    for part in tasks.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            ids += [f"{array}_{index}" for index in range(int(first), int(last or first) + 1)]
    return ids


def _output(*command: str) -> str:
    """Return the output of a command; "" if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
