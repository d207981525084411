"""The quickstart: the number of its processes, an interruption, and what it leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segzoo.model_zoo import load_config

REPOSITORY = Path(__file__).resolve().parents[2]
ITERATIONS = 40


@pytest.mark.parametrize(
    ("device", "processors", "batch", "expected"),
    [("cpu", 2, 8, 2), ("cpu", 64, 8, 2), ("cpu", 1, 8, 1), ("cpu", 2, 5, 1), ("cuda", 16, 8, 1)],
)
def test_two_processes_train_where_there_are_two_processors(monkeypatch, device, processors, batch, expected):
    import quickstart  # takes its time

    monkeypatch.setattr(quickstart, "free_processors", lambda: processors)
    monkeypatch.setattr(quickstart, "resolve_device", lambda cfg: device)
    cfg = load_config(quickstart.CONFIG, ["SOLVER.IMS_PER_BATCH", batch])
    assert quickstart.number_of_processes(cfg) == expected


@pytest.mark.skipif(
    hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < 2, reason="needs two processors"
)
def test_an_interrupted_quickstart_of_two_processes_resumes_and_finishes(tmp_path):
    output = tmp_path / "run"
    environment = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path / "data"), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "tools/quickstart.py", "--output", str(output), "--train", "16", "--val", "2"]
    command += ["SOLVER.MAX_ITER", str(ITERATIONS), "DATALOADER.NUM_WORKERS", "0"]

    def started(log: Path) -> subprocess.Popen:
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    first = started(tmp_path / "first.txt")
    try:
        _wait_for_iteration(first, output / "metrics.json")
        # As Ctrl-C in a terminal, which signals both processes.
        os.killpg(first.pid, signal.SIGINT)
        status = first.wait(120)
    finally:
        first.kill()
    text = (tmp_path / "first.txt").read_text()
    assert status == -signal.SIGINT, text  # 130 in a shell
    assert "the same command continues from there" in text
    assert "--resume" not in text
    assert f"To resume: {sys.executable} tools/quickstart.py --output {output}" in text
    stopped_after = _iterations(output / "metrics.json")[-1]
    assert stopped_after < ITERATIONS - 1

    second = started(tmp_path / "second.txt")
    try:
        status = second.wait(240)
    finally:
        second.kill()
    text = (tmp_path / "second.txt").read_text()
    assert status == 0, text
    assert "Resuming the interrupted quickstart" in text
    assert (output / "log.txt.rank1").is_file()
    # Each iteration has learned from a whole batch once, half of it in either process.
    assert _iterations(output / "metrics.json")[-1] == ITERATIONS - 1
    for name in ("model_final.pth", "predictions.png", "loss.png", "scene_1.png"):
        assert (output / name).is_file(), name
    results = json.loads((output / "inference" / "results.json").read_text())
    assert {"sem_seg", "panoptic_seg", "entity_seg"} <= set(_keys(results))
    assert re.search(r"semantic +mIoU +\d+\.\d", text)


def _wait_for_iteration(process: subprocess.Popen, metrics: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not (metrics.is_file() and metrics.read_text().strip()):
        assert process.poll() is None, "it ended before an iteration was recorded"
        assert time.monotonic() < end, "no iteration was recorded in time"
        time.sleep(0.1)


def _iterations(metrics: Path) -> list[int]:
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [line["iteration"] for line in lines]


def _keys(tree: object) -> list[str]:
    if not isinstance(tree, dict):
        return []
    return [key for name, part in tree.items() for key in (name, *_keys(part))]
