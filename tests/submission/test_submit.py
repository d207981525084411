"""`segzoo submit` without SLURM: options, scripts, snapshots, requeueing, and the status of runs."""

import argparse
import contextlib
import datetime
import json
import os
import re
import shlex
import subprocess
import types
from pathlib import Path

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from submitit.core.utils import FailedSubmissionError

from segzoo.cli import submit, train
from segzoo.cli.submission import executors
from segzoo.cli.submission.files import Job, Run, State, read_state, state_file, write_job, write_state
from segzoo.cli.submission.job import TrainingJob
from segzoo.cli.submission.plan import freeze, make_room, plan_runs
from segzoo.cli.submission.slurm import SlurmState, parse_sacct, parse_scontrol, slurm_states
from segzoo.cli.submission.snapshot import take_snapshot
from segzoo.cli.submission.status import run_statuses, table
from segzoo.cli.train import build_parser
from segzoo.data import register
from segzoo.engine.distributed.peer_failure import LostProcessError
from segzoo.model_zoo import load_config
from segzoo.utils import threads
from segzoo.utils.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = "semantic/shapes/pspnet_r18_quarter"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90:00", 90),
        ("90:01", 91),
        ("1:30:00", 90),
        ("2-00", 2880),
        ("2-12", 3600),
        ("1-00:30", 1470),
        ("0-01:00:30", 61),
    ],
)
def test_times_are_read_as_slurm_reads_them(text, expected):
    assert submit.minutes(text) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--time", "4h", "--", "x"],
            "--time 4h: expected minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or",
        ),
        (["--time", "0", "--", "x"], "--time 0: must be at least a minute"),
        (["--time", "2", "--", "x"], "--signal-delay 120 is not shorter than --time (2 min)"),
        (["--mem", "64 GB", "--", "x"], "--mem 64 GB: expected a number with K, M, G or T, as 64G"),
        (["--nodes", "0", "--", "x"], "argument --nodes: 0: expected at least 1"),
        (["--nodes", "two", "--", "x"], "argument --nodes: invalid int value: 'two'"),
        (["--gpus-per-node", "8", "--tasks-per-node", "4", "--", "x"], "there is a process for each GPU"),
        (["--nodes", "2", "--cluster", "local", "--", "x"], "there is one machine here"),
        (["--cluster", "local", "--requeues", "9", "--", "x"], "at most 5 here"),
        (["--cluster", "debug", "--sweep", "SEED", "1", "--", "x"], "leave out --array and --sweep"),
        (["--cluster", "pbs", "--", "x"], "invalid choice: 'pbs'"),
        (["--gpu", "8", "--", "x"], "unrecognized arguments: --gpu 8; see"),
        (["--nodes", "2"], "the options of the training are missing; give them after --"),
        (["--nodes", "2", "--"], "the options of the training are missing; give them after --"),
        (["--", "SEED", "1"], "--config-file is missing"),
        (["--array", CONFIG, "--", "SEED"], "overrides are KEY VALUE pairs"),
        (["--", "--config-file", "no/such"], "config file no/such does not exist"),
        (["--", "--config-file", CONFIG, "SOLVER.MAX_ITR", "3"], "did you mean SOLVER.MAX_ITER?"),
        (["--", "--config-file", CONFIG, "--nodes", "2"], "unrecognized arguments: --nodes"),
        (["--", "--num-gpus", "8", "--config-file", CONFIG], "--num-gpus after --: the job sets the number"),
        (["--array", CONFIG, "--", "--config-file", CONFIG], "leave out --config-file after --"),
        (["--sweep", "SEED", "--", "--config-file", CONFIG], "--sweep SEED: no values"),
        (["--sweep", "SEED", "1", "x", "--", "--config-file", CONFIG], "SEED"),
        (["--job-dir", "full", "--", "--config-file", CONFIG], "--job-dir full is not empty"),
        (["--", "--config-file", CONFIG, "OUTPUT_DIR", "old"], "old holds a training; add --resume"),
        (["--", "--config-file", CONFIG], "no srun on this machine"),
        (["--status", "full"], "--status "),
    ],
)
def test_a_wrong_command_is_one_line_and_leaves_nothing(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "last_checkpoint").touch()
    try:
        status = submit.main(words)
    except SystemExit as end:  # argparse's own
        status = end.code
    assert status == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"full", "old", "output"}
    assert not list(tmp_path.glob("output/jobs/*"))


def directives(script):
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, re.MULTILINE))


def test_the_script_requests_the_resources_of_the_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = (
        "--nodes 4 --gpus-per-node 8 --cpus-per-task 6 --mem 200G --partition gpu --account lab --qos high"
    )
    words += (
        " --constraint a100 --comment 'for the paper' --time 2-12 --signal-delay 300 --at-once 2 --job-dir j"
    )
    command = [
        *shlex.split(words),
        "--dry-run",
        "--sweep",
        "SEED",
        "1",
        "2",
        "3",
        "--",
        "--config-file",
        CONFIG,
    ]
    assert submit.main(command) == 0
    script = capsys.readouterr().out
    found = directives(script)
    expected = {
        "nodes": "4",
        "gpus-per-node": "8",
        "ntasks-per-node": "8",
        "cpus-per-task": "6",
        "mem": "200G",
        "partition": "gpu",
        "account": "lab",
        "qos": "high",
        "constraint": "a100",
        "comment": "'for the paper'",
        "time": "3600",
        "signal": "USR2@300",
        "array": "0-2%2",
        "requeue": "",
        "job-name": "sweep",
    }
    assert {key: found.get(key) for key in expected} == expected
    (srun,) = re.findall(r"^srun .*$", script, re.MULTILINE)
    assert "--cpus-per-task=6" in srun
    assert str(tmp_path / "j" / "snapshot" / executors.START) in srun
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", ["0", "64g", "1000"])
def test_memory_sizes_are_accepted_as_slurm_accepts_them(size):
    options = submit.build_parser().parse_args(["--mem", size, "--", "x"])
    assert options.mem == size


def test_a_job_does_not_get_the_number_of_threads_of_the_login_node(tmp_path, monkeypatch):
    """sbatch passes on the environment, in which the command has limited its own threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(threads, "_own_numbers", [])
    monkeypatch.setattr(threads, "_bound_processors", lambda: 64)
    monkeypatch.setattr(threads, "_cgroup_shares", lambda: iter([2.0]))
    threads.configure_openmp()
    seen = []

    class Executor:
        @contextlib.contextmanager
        def batch(self):
            yield
            seen.append(os.environ.get("OMP_NUM_THREADS"))  # where submitit runs sbatch

        def submit(self, task):
            return types.SimpleNamespace(job_id=12)

    monkeypatch.setattr(executors, "_slurm", lambda *_: Executor())
    options = argparse.Namespace(cluster="slurm", requeues=0)
    run = Run(index=0, name="one", arguments=[], output=str(tmp_path))
    executors.submit(options, tmp_path, [run])
    assert (seen, os.environ["OMP_NUM_THREADS"], run.job_id) == ([None], "2", "12")


def test_jobs_submitted_in_one_second_have_separate_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = submit.build_parser().parse_args(["--name", "a", "--", "x"])

    class Clock(datetime.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(submit.datetime, "datetime", Clock)
    names = []
    for _ in range(3):
        folder = submit.job_folder(options)
        folder.mkdir(parents=True)
        names.append(folder.name)
    assert names == ["20260102_030405_a", "20260102_030405_a_2", "20260102_030405_a_3"]


def test_configurations_and_values_are_combined(tmp_path):
    (tmp_path / "other.yaml").write_text(f"_BASE_: {REPOSITORY}/configs/{CONFIG}.yaml\n")
    configs = [CONFIG, str(tmp_path / "other.yaml")]
    words = ["--resume", "SOLVER.MAX_ITER", "5"]
    runs = plan_runs(words, configs, [["SEED", "1", "2"], ["MODEL.BACKBONE.NORM", "BN"]], tmp_path / "job")
    assert [run.name for run in runs] == [
        "pspnet_r18_quarter,SEED=1,NORM=BN",
        "pspnet_r18_quarter,SEED=2,NORM=BN",
        "other,SEED=1,NORM=BN",
        "other,SEED=2,NORM=BN",
    ]
    for run in runs:
        args = build_parser().parse_args(run.arguments)
        cfg = load_config(args.config_file, args.opts)
        assert args.resume
        assert cfg.OUTPUT_DIR == run.output == str(tmp_path / "job" / "output" / run.name)
        assert (cfg.SEED, cfg.SOLVER.MAX_ITER, run.max_iter) == (int(run.name.split("SEED=")[1][0]), 5, 5)
    (run,) = plan_runs([*words, "OUTPUT_DIR", str(tmp_path / "mine")], configs[1:], [], tmp_path / "job")
    assert run.output == str(tmp_path / "mine")
    assert run.metric == "sem_seg/mIoU"


def test_names_that_a_run_would_refuse_are_refused_before_it_is_queued(tmp_path):
    words, sweep = ["--config-file", CONFIG], ["SOLVER.OPTIMIZER", "AdamW", "SGDD"]
    with pytest.raises(InputError, match=r"^SOLVER.OPTIMIZER 'SGDD' is unknown; did you mean SGD"):
        plan_runs(words, [], [sweep], tmp_path / "job")
    with pytest.raises(InputError, match=r"^TEST.PROTOCOL 'semseg_sss' is unknown"):
        plan_runs([*words, "--eval-only", "TEST.PROTOCOL", "semseg_sss"], [], [], tmp_path / "job")
    # An evaluation has no optimizer.
    plan_runs([*words, "--eval-only", *sweep[:1], "SGDD"], [], [], tmp_path / "job")


def leave_training(folder):
    folder.mkdir(parents=True)
    for name in ("model_final.pth", "last_checkpoint"):
        (folder / name).write_text("model_final.pth")


def weights_of(run):
    args = build_parser().parse_args(run.arguments)
    assert not args.overwrite
    return Path(load_config(args.config_file, args.opts).MODEL.WEIGHTS)


@pytest.mark.parametrize(
    "given",
    [["--weights", "{}"], ["--weights={}"], ["MODEL.WEIGHTS", "{}"], ["--opts", "MODEL.WEIGHTS", "{}"]],
)
def test_overwriting_moves_the_training_once_and_the_weights_are_followed(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    leave_training(tmp_path / "run")
    flags = ["--config-file", CONFIG, "--overwrite"]
    words = [*flags, *(word.format("run/model_final.pth") for word in given), "OUTPUT_DIR", "run"]
    (run,) = plan_runs(words, [], [], tmp_path / "job")
    aside = tmp_path / "run.old-1"
    assert list(make_room([run])) == [
        f"--overwrite: the training that was in {tmp_path / 'run'} is now {aside}",
        f"MODEL.WEIGHTS has moved with it: {aside / 'model_final.pth'}",
    ]
    assert weights_of(run) == aside / "model_final.pth"
    assert weights_of(run).is_file()
    # A requeued run, or one planned from these words, moves nothing.
    assert list(make_room([run])) == []


def test_weights_in_the_folder_of_another_run_of_an_array_are_followed(tmp_path):
    first = tmp_path / "runs" / "pspnet_r18_quarter,SEED=1"
    leave_training(first)
    words = ["--config-file", CONFIG, "--overwrite", "--weights", str(first / "model_final.pth")]
    runs = plan_runs(
        [*words, "OUTPUT_DIR", str(tmp_path / "runs")], [], [["SEED", "2", "1"]], tmp_path / "job"
    )
    assert len(list(make_room(runs))) == 2
    assert [weights_of(run) for run in runs] == [Path(f"{first}.old-1", "model_final.pth")] * 2


def write_files(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * (2 * 2**20 if "big" in name else 10))


def copied(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_snapshot_has_the_code_but_neither_ignored_nor_big_files(tmp_path):
    root = tmp_path / "code"
    tracked = {"tools/a.py", "logo.png", "tracked_big.json", ".gitignore"}
    new = {"new.py", "pyproject.toml", "configs/new.yaml"}
    left_out = {"photo.jpg", "new_big.json", "output/b.py", "jobs/1/job.json", "jobs/1/snapshot/a.py"}
    write_files(root, tracked)
    (root / ".gitignore").write_text("output/\n")
    git = ["git", "-C", str(root), "-c", "user.name=x", "-c", "user.email=x"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert take_snapshot(tmp_path / "clean", root) == (len(tracked), commit)
    write_files(root, new | left_out)
    assert take_snapshot(tmp_path / "copy", root) == (len(tracked | new), f"{commit}+")
    assert copied(tmp_path / "copy") == tracked | new

    # Without git, files that are code by their names.
    (root / ".git").rename(tmp_path / "git")
    assert take_snapshot(tmp_path / "plain", root)[1] == ""
    assert copied(tmp_path / "plain") == {"tools/a.py", *new}


def test_a_job_does_not_see_later_edits_of_its_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ("images", "labels"):
        (tmp_path / "roads" / kind).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "roads" / kind / "a.png")
    dataset = {"name": "roads", "root": "roads", "splits": {"roads_of_a_job": "train"}, "encoding": "index"}
    dataset |= {"images": "images/{stem}.png", "labels": "labels/{stem}.png"}
    dataset["classes"] = [{"name": "road", "color": [1, 2, 3]}, {"name": "sky", "color": [3, 2, 1]}]
    Path("roads.yaml").write_text(yaml.safe_dump(dataset))
    Path("base.yaml").write_text(f"_BASE_: {REPOSITORY}/configs/{CONFIG}.yaml\nSEED: 5\n")
    Path("mine.yaml").write_text(
        "_BASE_: base.yaml\nSOLVER: {STEPS: '(3, 4)'}\nDATASETS: {FILES: ['roads.yaml'], "
        "TRAIN: ['roads_of_a_job'], TEST: []}\nTEST: {BEST_METRIC: ''}\n"
    )
    (run,) = plan_runs(["--config-file", "mine.yaml"], [], [], tmp_path / "job")
    before = load_config("mine.yaml")
    freeze(run, tmp_path / "snapshot")

    Path("base.yaml").write_text("SEED: 6\n")
    Path("roads.yaml").write_text("gone")
    forget("roads_of_a_job")
    args = build_parser().parse_args(run.arguments)
    after = load_config(args.config_file, args.opts)
    (record,) = DatasetCatalog.get("roads_of_a_job")
    assert Path(record["file_name"]).samefile(tmp_path / "roads" / "images" / "a.png")
    (frozen,) = after.DATASETS.FILES
    assert Path(frozen).is_relative_to(tmp_path / "snapshot")
    after.DATASETS.FILES, after.OUTPUT_DIR = before.DATASETS.FILES, before.OUTPUT_DIR
    assert after == before
    forget("roads_of_a_job")


def forget(split):
    """Remove a dataset from the catalogs, as in a new process."""
    DatasetCatalog.remove(split)
    MetadataCatalog.remove(split)
    del register._registered[split]


def call(folder, monkeypatch, status, requeues=1, **environment):
    """Run a task whose training returns or raises `status`, by default in a local job.

    Returns:
        The exit status, the arguments of the training, and the state of the run.
    """
    seen = []

    def main(arguments):
        seen.extend(arguments)
        if isinstance(status, Exception):
            raise status
        return status

    monkeypatch.setattr(train, "main", main)
    local = {f"SUBMITIT_{k}": v for k, v in (("EXECUTOR", "local"), ("LOCAL_JOB_ID", "1"))}
    for name, value in (local | {"SUBMITIT_LOCAL_GLOBALID": "0"} | environment).items():
        monkeypatch.setenv(name, value)
    run = Run(0, "a", ["--config-file", "a.yaml"], str(folder / "output"), 10)
    with pytest.raises(SystemExit) as end:
        TrainingJob(folder, run, requeues)()
    return end.value.code, seen, read_state(state_file(folder, 0))


def test_a_run_requeues_itself_as_often_as_allowed_and_resumes(tmp_path, monkeypatch):
    # 144 is the status by which submitit's runner of local jobs starts one again.
    status, words, state = call(tmp_path, monkeypatch, 75)
    assert (status, "--resume" in words, state.phase, state.requeues) == (144, False, "requeued", 1)
    status, words, state = call(tmp_path, monkeypatch, 75)
    assert (status, "--resume" in words, state.phase, state.requeues) == (75, True, "stopped", 1)
    assert "requeued 1 times (--requeues)" in state.error
    assert state.starts == 2


@pytest.mark.parametrize(
    ("result", "status", "phase", "error"),
    [
        (0, 0, "done", ""),
        (79, 79, "stopped", "cancelled; --resume continues from its last checkpoint"),
        (InputError("a.png: label 7"), 2, "failed", "a.png: label 7"),
        (ValueError("no\nway"), 1, "failed", "ValueError: no"),
        (KeyError("x"), 1, "failed", "KeyError: 'x'"),
    ],
)
def test_the_end_of_a_run_is_recorded(tmp_path, monkeypatch, result, status, phase, error):
    found, _, state = call(tmp_path, monkeypatch, result)
    assert (found, state.phase, state.error) == (status, phase, error)


def in_slurm(task):
    return {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "12", "SLURM_PROCID": str(task)}


# The output of scontrol in SLURM 22.05 after SIGTERM, for a cancelled, a preempted and a timed out job.
@pytest.mark.parametrize(
    ("fields", "status", "phase"),
    [
        ("JobState=COMPLETING Reason=None PreemptTime=None SuspendTime=None", 79, "stopped"),
        ("JobState=RUNNING Reason=None PreemptTime=2026-11-21T16:49:45 SuspendTime=None", 0, "requeued"),
        ("JobState=COMPLETING Reason=TimeLimit PreemptTime=None SuspendTime=None", 0, "requeued"),
    ],
)
def test_preempted_and_timed_out_jobs_are_requeued_but_not_cancelled_ones(
    tmp_path, monkeypatch, fields, status, phase
):
    fake_scontrol(tmp_path / "bin", monkeypatch, f"JobId=12 {fields}")
    found, _, state = call(tmp_path, monkeypatch, 79, **in_slurm(0))
    assert (found, state.phase) == (status, phase)
    # Another status might end the main task before it has requeued the job.
    assert call(tmp_path, monkeypatch, 79, **in_slurm(1))[0] == 0


def test_a_task_that_starts_late_does_not_take_the_first_start_for_a_restart(tmp_path, monkeypatch):
    for task in (0, 1):
        assert "--resume" not in call(tmp_path, monkeypatch, 0, **in_slurm(task))[1]
    again = {**in_slurm(1), "SLURM_RESTART_COUNT": "1"}
    assert "--resume" in call(tmp_path, monkeypatch, 0, **again)[1]


def test_the_cause_is_shown_rather_than_the_errors_of_the_other_tasks(tmp_path, monkeypatch):
    folder = tmp_path / "job"
    job_of_runs(folder, State())
    fake_scontrol(
        tmp_path / "bin", monkeypatch, "JobId=7 ArrayJobId=7 ArrayTaskId=0 JobState=FAILED Reason=x"
    )
    call(folder, monkeypatch, ValueError("of an earlier start"), **in_slurm(1))
    again = {"SLURM_RESTART_COUNT": "1"}
    call(folder, monkeypatch, 79, **in_slurm(0), **again)
    assert [line.state for line in run_statuses(folder)] == ["stopped"]
    call(folder, monkeypatch, LostProcessError("one is gone"), **in_slurm(0), **again)
    assert [(line.state, line.note) for line in run_statuses(folder)] == [
        ("failed", "LostProcessError: one is gone")
    ]
    for main_task in (79, LostProcessError("one is gone")):
        call(folder, monkeypatch, InputError("a.png: label 7"), **in_slurm(1), **again)
        call(folder, monkeypatch, main_task, **in_slurm(0), **again)
        assert [(line.state, line.note) for line in run_statuses(folder)] == [("failed", "a.png: label 7")]


def test_debug_runs_in_this_process(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    seen = []
    monkeypatch.setattr(train, "main", lambda arguments: seen.append(arguments) or 0)
    folder = tmp_path / "job"
    assert submit.main(["--cluster", "debug", "--job-dir", str(folder), "--", "--config-file", CONFIG]) == 0
    assert str(folder / "snapshot" / "configs" / f"{CONFIG}.yaml") in seen[0]
    assert submit.main(["--status", str(folder)]) == 0
    assert " done " in capsys.readouterr().out


def test_states_are_read_from_scontrol_and_from_sacct():
    scontrol = (
        "JobId=8 ArrayJobId=7 ArrayTaskId=0 JobName=a b JobState=RUNNING Reason=None Restarts=1\n"
        "JobId=7 ArrayJobId=7 ArrayTaskId=1,3-4%2 JobName=x JobState=PENDING Reason=Resources Restarts=0\n"
    )
    waiting = SlurmState("PENDING", "Resources")
    expected = {"7_0": SlurmState("RUNNING"), "7_1": waiting, "7_3": waiting, "7_4": waiting}
    assert parse_scontrol(scontrol) == expected
    assert parse_scontrol("JobId=12 JobName=x JobState=TIMEOUT Reason=TimeLimit\n") == {
        "12": SlurmState("TIMEOUT", "TimeLimit")
    }
    assert parse_scontrol("slurm_load_jobs error: Invalid job id specified\n") == {}
    sacct = "7_0|COMPLETED|None\n7_[1-2%2]|PENDING|Priority\n9|CANCELLED by 0|None\n9.batch|CANCELLED|\n"
    assert parse_sacct(sacct) == {
        "7_0": SlurmState("COMPLETED"),
        "7_1": SlurmState("PENDING", "Priority"),
        "7_2": SlurmState("PENDING", "Priority"),
        "9": SlurmState("CANCELLED"),
    }


def fake_scontrol(folder, monkeypatch, text):
    """Replace SLURM's commands; sacct fails."""
    folder.mkdir()
    for name, script in (("scontrol", f"cat <<'END'\n{text}\nEND"), ("sacct", "exit 1")):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_sacct_is_queried_only_for_jobs_that_scontrol_has_dropped(tmp_path, monkeypatch):
    fake_scontrol(tmp_path / "bin", monkeypatch, "JobId=8 ArrayJobId=7 ArrayTaskId=0 JobState=RUNNING")
    (tmp_path / "bin" / "sacct").write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\necho '7_1|FAILED|None'\n")
    assert slurm_states(["7_0"]) == {"7_0": SlurmState("RUNNING")}
    assert not (tmp_path / "asked").exists()
    assert slurm_states(["7_0", "7_1"]) == {"7_0": SlurmState("RUNNING"), "7_1": SlurmState("FAILED")}


def job_of_runs(folder, *states):
    """Write a job folder with runs in these states."""
    runs = [
        Run(i, f"run{i}", [], str(folder / "output" / f"run{i}"), 100, "sem_seg/mIoU", f"7_{i}")
        for i in range(len(states))
    ]
    write_job(folder, Job("slurm", "2026-01-01T00:00:00", [], "/", "", runs))
    for run, state in zip(runs, states, strict=True):
        write_state(state_file(folder, run.index), state)
        Path(run.output).mkdir(parents=True)
        lines = [
            {"iteration": 19, "total_loss": 2.0, "eta_seconds": 90.0, "sem_seg/mIoU": 12.345},
            {"iteration": 39, "total_loss": 1.5, "eta_seconds": 61.7},
        ]
        text = "\n".join(map(json.dumps, lines))
        Path(run.output, "metrics.json").write_text(text + '\n{"iteration": 4')
    return runs


def test_the_table_shows_the_status_of_each_run(tmp_path, monkeypatch):
    states = [
        State("running", 1),
        State("requeued", 1, 1),
        State("done", 1),
        State("failed", 1, error="a.png: label 7"),
        State("running", 1),
        State("running", 1),
    ]
    job_of_runs(tmp_path / "job", *states)
    line = "JobId={} ArrayJobId=7 ArrayTaskId={} JobState={} Reason={}"
    state_lines = [
        "RUNNING None",
        "PENDING BeginTime",
        "COMPLETING None",
        "FAILED NonZeroExitCode",
        "TIMEOUT TimeLimit",
    ]
    text = "\n".join(line.format(8 + i, i, *state.split()) for i, state in enumerate(state_lines))
    fake_scontrol(tmp_path / "bin", monkeypatch, text)
    (tmp_path / "job" / "logs").mkdir()
    (tmp_path / "job" / "logs" / "7_4_0_log.out").write_text("step\nslurmstepd: killed\n\n")

    found = {one.run.name: (one.state, one.note) for one in run_statuses(tmp_path / "job")}
    assert found == {
        "run0": ("running", ""),
        "run1": ("waiting", "requeued 1x, BeginTime"),
        "run2": ("done", ""),
        "run3": ("failed", "a.png: label 7"),
        "run4": ("timeout", "slurmstepd: killed"),
        "run5": ("lost", "ended without a message; SLURM no longer knows the job"),
    }
    shown = table(run_statuses(tmp_path / "job")).splitlines()
    assert re.split(r"\s{2,}", shown[2].strip()) == [
        "run0",
        "7_0",
        "running",
        "40/100",
        "0:01:01",
        "sem_seg/mIoU 12.35",
    ]
    assert "run3 failed: a.png: label 7" in shown


def test_the_table_needs_no_slurm(tmp_path, monkeypatch):
    job_of_runs(tmp_path, State("done"), State("failed", error="why"), State())
    monkeypatch.setenv("PATH", "")
    assert [(one.state, one.note) for one in run_statuses(tmp_path)] == [
        ("done", ""),
        ("failed", "why"),
        ("unknown", "SLURM does not know the job"),
    ]


def test_the_first_error_of_the_last_start_is_shown_if_the_main_task_recorded_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    job_of_runs(tmp_path, State("running", 2))
    folder = tmp_path / "state" / "0.errors"
    folder.mkdir()
    for age, (name, text) in enumerate({"1_0": "others left", "1_3": "cause", "0_1": "older"}.items()):
        (folder / f"{name}.txt").write_text(text)
        os.utime(folder / f"{name}.txt", (1000 - age, 1000 - age))
    assert [(one.state, one.note) for one in run_statuses(tmp_path)] == [("lost", "cause")]


@pytest.mark.parametrize("is_there", [False, True])
def test_a_refused_job_leaves_nothing_and_names_the_way_without_a_cluster(
    tmp_path, monkeypatch, capsys, is_there
):
    class Executor:
        @contextlib.contextmanager
        def batch(self):
            yield
            raise FailedSubmissionError("sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error")

        def submit(self, task):
            return types.SimpleNamespace(job_id="")

    monkeypatch.setattr(executors, "_slurm", lambda *_: Executor())
    monkeypatch.chdir(tmp_path)
    if is_there:
        (tmp_path / "output").mkdir()
    assert submit.main(["--", "--config-file", CONFIG]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: sbatch refuses the job: resolve_ctls_from_dns_srv")
    assert error.endswith("; --cluster local runs it on this machine\n")
    assert [path.name for path in tmp_path.iterdir()] == ["output"] * is_there
