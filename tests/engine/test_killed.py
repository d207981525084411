"""kill -9 in the middle, then --resume: nothing is corrupt, doubled or missing, and the result is equal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_training import assert_same_weights, metrics, run_toy, toy_cfg, weights

REPOSITORY = Path(__file__).resolve().parents[2]
ITERATIONS = 60


@pytest.fixture(autouse=True)
def _one_thread():
    # As in the process that is killed: sums depend on the number of threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def start(folder):
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("toy_training.py")
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), str(ITERATIONS)],
        env=environment,
        stdout=subprocess.DEVNULL,
    )


def test_a_killed_run_resumes_to_the_result_it_would_have_had(tmp_path):
    process = start(tmp_path)
    while not (tmp_path / "model_0000011.pth").exists():
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "model_final.pth").exists()

    changes = {"SOLVER__MAX_ITER": ITERATIONS, "SOLVER__LOG_PERIOD": 5, "MODEL__MASK_FORMER__DROPOUT": 0.1}
    resumed = run_toy(toy_cfg(tmp_path, **changes), resume=True)
    # The newest file may not have been tagged as the last checkpoint yet.
    assert resumed.start_iter >= 8
    run_toy(toy_cfg(tmp_path / "whole", **{**changes, "SOLVER__CHECKPOINT_PERIOD": 40}))

    assert_same_weights(weights(tmp_path), weights(tmp_path / "whole"))
    assert metrics(tmp_path) == metrics(tmp_path / "whole")
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("total_loss")] == list(range(4, ITERATIONS, 5))
