"""--num-machines 2: two network namespaces with their own addresses, connected by a virtual cable."""

import shutil
import subprocess
import uuid
from collections.abc import Callable

import pytest

from tests.engine import warm
from tests.engine.test_lost_processes import fail
from tests.engine.toy_training import metrics, run_toy, run_toys, toy_cfg

ADDRESSES = ("10.213.7.1", "10.213.7.2")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def machines():
    """Names of two namespaces that reach each other and nothing else."""
    if not shutil.which("ip"):
        pytest.skip("needs ip (apt install iproute2)")
    tag = uuid.uuid4().hex[:8]
    names = [f"segzoo{tag}{index}" for index in range(2)]
    cables = [f"sz{tag}{index}" for index in range(2)]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip(
                "link",
                "add",
                cables[0],
                "netns",
                names[0],
                "type",
                "veth",
                "peer",
                cables[1],
                "netns",
                names[1],
            )
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
        for name, cable, address in zip(names, cables, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def launch_on_machine(rank: int, function: Callable, *arguments: object) -> None:
    url = f"tcp://{ADDRESSES[0]}:29517"
    warm.launch_by_forking(function, 1, 2, rank, url, args=arguments)


def run_on_both(machines, tmp_path, function: Callable, *arguments: object) -> list[warm.Started]:
    started = [
        warm.start(
            tmp_path / f"output{rank}", launch_on_machine, rank, function, *arguments, namespace=machine
        )
        for rank, machine in enumerate(machines)
    ]
    for process in started:
        assert process.status(60) is not None, process.output
    return started


def test_two_machines_equal_one_with_the_same_total_batch(machines, tmp_path):
    started = run_on_both(machines, tmp_path, run_toys, toy_cfg(tmp_path / "two"))
    assert [process.status() for process in started] == [0, 0], [process.output for process in started]
    run_toy(toy_cfg(tmp_path / "one"))
    for line, expected in zip(metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True):
        assert line == pytest.approx(expected, rel=1e-4), line["iteration"]


@pytest.mark.parametrize(("failing", "how"), [(1, "killed"), (0, "wrong input")])
def test_the_other_machine_ends_and_reports_the_lost_process(machines, tmp_path, failing, how):
    started = run_on_both(machines, tmp_path, fail, toy_cfg(tmp_path / "two"), failing, how)
    left, gone = started[1 - failing], started[failing]
    assert left.status() == 1, left.output
    assert left.output.splitlines()[-1].startswith(
        f"error: process {1 - failing} lost the connection to another process at {ADDRESSES[failing]}: "
    )
    assert "Traceback" not in left.output
    cause = {
        "killed": (1, f"error: process {failing} was killed (SIGKILL)"),
        "wrong input": (2, "error: a.png: label 7 is wrong"),
    }
    assert (gone.status(), gone.output.splitlines()[-1][: len(cause[how][1])]) == cause[how]
