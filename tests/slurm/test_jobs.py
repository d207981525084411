"""`segzoo submit` on a real SLURM: arrays of several tasks, the end of a job's time, cancelling, failing."""

import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
import torch

from segzoo.cli import submit, train
from segzoo.cli.prepare.shapes import make_shapes
from segzoo.cli.submission.status import OPEN, run_statuses
from tests.slurm.slurm_on_loopback import LoopbackSlurm, why_not

REPOSITORY = Path(__file__).resolve().parents[2]
ITERATIONS = 24
WORDS = ["--config-file", "semantic/shapes/pspnet_r18_quarter", "SOLVER.MAX_ITER", str(ITERATIONS)]
WORDS += ["SOLVER.IMS_PER_BATCH", "4", "SOLVER.LOG_PERIOD", "1", "MODEL.DEVICE", "cpu"]
# The machine may be busy with other tests.
PATIENCE = 240


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A SLURM for the tests of this process, and generated data for its jobs."""
    if reason := why_not():
        pytest.skip(reason)
    data = tmp_path_factory.mktemp("data")
    make_shapes(data / "shapes", train=8, val=3, size=64, workers=0)
    # Not in pytest's folder: munge wants folders that others can enter, and a short path.
    folder = Path(tempfile.mkdtemp(prefix="segzoo_slurm_"))
    folder.chmod(0o755)
    slurm = LoopbackSlurm(folder)
    patch = pytest.MonkeyPatch()
    for name, value in slurm.environment.items():
        patch.setenv(name, value)
    patch.setenv("DETECTRON2_DATASETS", str(data))
    patch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # As in the jobs: sums depend on it.
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
        torch.set_num_threads(threads)
        patch.undo()
        shutil.rmtree(folder)


def wait_until(condition, folder, seconds=0.2):
    """Wait for a condition; on timeout, raise AssertionError with the job's logs."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("logs/*.out")))
            raise AssertionError(f"{run_statuses(folder)}\n{logs}")
        time.sleep(seconds)


def wait_for_the_end(folder):
    wait_until(lambda: not any(line.state in OPEN for line in run_statuses(folder)), folder)
    return run_statuses(folder)


def hold_after_iterations(folder, count):
    """Stop the process of a run, so that it cannot end before the test continues; return its id."""
    metrics = folder / "output" / "metrics.json"
    wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= count, folder, 0.01)
    process = json.loads((folder / "state" / "0.json").read_text())["process"]
    os.kill(process, signal.SIGSTOP)
    return process


def let_go(process):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


def job_of(slurm, job_id):
    return slurm.ask("scontrol", "-o", "show", "job", job_id)


def train_here(folder, *words):
    assert train.main([*words, *WORDS, "OUTPUT_DIR", str(folder)]) == 0
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def assert_same_weights(first, second):
    """Compare bitwise."""
    assert first.keys() == second.keys()
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name


def test_an_array_runs_in_two_tasks_each_and_says_which_run_failed_and_why(slurm, tmp_path, capsys):
    folder = tmp_path / "job"
    options = ["--tasks-per-node", "2", "--time", "10", "--name", "pair", "--job-dir", str(folder)]
    options += ["--sweep", "SOLVER.IMS_PER_BATCH", "4", "5"]
    assert submit.main([*options, "--", *WORDS]) == 0
    shown = capsys.readouterr().out
    job = re.search(r"submitted job (\d+): 2 runs, 2 tasks on 1 node", shown)[1]
    assert f"scancel {job}" in shown
    assert str(folder / "logs" / f"{job}_1_0_log.out") in shown

    good, bad = wait_for_the_end(folder)
    assert (good.state, good.iteration, good.run.job_id) == ("done", ITERATIONS, f"{job}_0")
    assert good.metric.startswith("sem_seg/mIoU ")
    output = Path(good.run.output)
    assert "cpu, 2 processes" in (output / "log.txt").read_text()
    checkpoint = torch.load(output / "model_final.pth", weights_only=True)
    assert len(checkpoint["random_states"]) == 2
    assert json.loads((output / "inference" / "results.json").read_text())["protocol"]["datasets"] == {
        "shapes_val": 3
    }

    assert bad.state == "failed"
    assert submit.main(["--status", str(folder)]) == 0
    table = capsys.readouterr().out
    assert "failed: SOLVER.IMS_PER_BATCH 5 is not divisible by 2 processes" in table
    for run, state in ((0, "COMPLETED"), (1, "FAILED")):
        wait_until(lambda: f"JobState={state}" in job_of(slurm, f"{job}_{run}"), folder)  # noqa: B023


def test_a_job_that_sbatch_refuses_is_one_line_and_leaves_nothing(slurm, tmp_path, capsys):
    folder = tmp_path / "job"
    assert submit.main(["--partition", "nope", "--job-dir", str(folder), "--", *WORDS]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: sbatch refuses the job: invalid partition specified: nope")
    assert error.count("\n") == 1
    assert not folder.exists()


def has_been_signalled(process):
    """Return whether SLURM has sent SIGUSR2 to a stopped process, or has even continued it and it is gone."""
    try:
        status = Path("/proc", str(process), "status").read_text()
    except OSError:
        return True
    waiting = [int(signals, 16) for signals in re.findall(r"(?:ShdPnd|SigPnd):\s*(\w+)", status)]
    return any(signals & 1 << (signal.SIGUSR2 - 1) for signals in waiting)


def test_a_job_whose_time_is_up_is_requeued_and_ends_as_the_uninterrupted_one(slurm, tmp_path):
    folder = tmp_path / "job"
    # SLURM checks every 30 s, so the signal comes in the first 35 of these 60; on a busy machine even before
    # the third iteration, and then once more.
    options = ["--time", "1", "--signal-delay", "25", "--requeues", "5", "--job-dir", str(folder)]
    assert submit.main([*options, "--", *WORDS]) == 0
    # Rather than training for a minute, it is stopped until its time is up.
    process = hold_after_iterations(folder, 3)
    state_file = folder / "state" / "0.json"
    before = json.loads(state_file.read_text())["requeues"]
    wait_until(lambda: has_been_signalled(process), folder)
    let_go(process)
    wait_until(lambda: json.loads(state_file.read_text())["requeues"] == before + 1, folder)
    (waiting,) = run_statuses(folder)
    assert (waiting.state, waiting.note[:11]) == ("waiting", f"requeued {before + 1}x")
    slurm.ask("scontrol", "update", f"JobId={waiting.run.job_id}", "TimeLimit=10")
    reference = train_here(tmp_path / "whole")
    (line,) = wait_for_the_end(folder)

    assert line.state == "done"
    state = json.loads(state_file.read_text())
    assert state["requeues"] >= 1
    assert state["starts"] > state["requeues"]
    log = (folder / "logs" / f"{line.run.job_id}_0_log.out").read_text()
    stopped = [int(number) for number in re.findall(r"SIGUSR2: stopped after iteration (\d+)", log)]
    assert stopped
    assert all(f"Training from iteration {number + 1} to {ITERATIONS}" in log for number in stopped)
    assert_same_weights(
        torch.load(folder / "output" / "model_final.pth", weights_only=True)["model"], reference
    )
    lines = (folder / "output" / "metrics.json").read_text().splitlines()
    assert sorted({json.loads(text)["iteration"] for text in lines}) == list(range(ITERATIONS))


def test_a_cancelled_job_ends_with_a_checkpoint_that_can_be_used(slurm, tmp_path):
    folder = tmp_path / "job"
    assert submit.main(["--time", "10", "--job-dir", str(folder), "--", *WORDS]) == 0
    process = hold_after_iterations(folder, 3)
    (run,) = run_statuses(folder)
    slurm.ask("scancel", run.run.job_id)
    let_go(process)
    (line,) = wait_for_the_end(folder)

    assert (line.state, line.note) == ("stopped", "cancelled; --resume continues from its last checkpoint")
    assert 3 <= line.iteration < ITERATIONS
    wait_until(lambda: "JobState=CANCELLED" in job_of(slurm, run.run.job_id), folder)
    resumed = train_here(folder / "output", "--resume")
    assert_same_weights(resumed, train_here(tmp_path / "whole"))
