"""A process that ends also ends the others within seconds, with the cause, however they were started."""

import os
import re
import signal
import time

import pytest

from segzoo.engine.distributed.launch import launch
from segzoo.engine.distributed.peer_failure import LostProcessError, lost_processes_explained
from segzoo.engine.distributed.signals import stop_on_signals
from segzoo.utils.errors import InputError
from tests.engine import warm
from tests.engine.toy_training import ToyTrainer, run_toy, toy_cfg

IN_TIME = 60
LOST = re.compile(
    r"^error: process \d lost the connection to another process( at 127\.0\.0\.1)?: it has ended, or "
    r"its machine or the network has failed\. .* --resume continues from the last checkpoint$",
    re.MULTILINE,
)


class FailingTrainer(ToyTrainer):
    """A trainer of which one process ends in iteration 3."""

    rank, how = 0, ""

    def run_step(self):
        from detectron2.utils import comm

        if self.iter == 3 and comm.get_rank() == self.rank:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise InputError("a.png: label 7 is wrong")
        super().run_step()


def fail(cfg, rank: int, how: str) -> None:
    FailingTrainer.rank, FailingTrainer.how = rank, how
    with stop_on_signals():
        run_toy(cfg, trainer_class=FailingTrainer)


def join_and_fail(*arguments) -> None:
    launch(fail, 1, args=arguments, device="cpu")


def spawn_and_fail(*arguments) -> None:
    warm.launch_by_forking(fail, 2, args=arguments)


def fail_beside_an_evaluation() -> None:
    """A signal of the parent ends an evaluation at once, but is not the cause of the job's end."""
    from detectron2.utils import comm

    with stop_on_signals():
        if comm.get_rank() == 1:
            time.sleep(0.2)
            raise InputError("a.png: label 7 is wrong")
        time.sleep(IN_TIME)


def spawn_beside_an_evaluation() -> None:
    warm.launch_by_forking(fail_beside_an_evaluation, 2)


@pytest.mark.parametrize("how", ["killed", "wrong input"])
@pytest.mark.parametrize("failing", [0, 1])
def test_under_torchrun_the_other_process_reports_the_lost_one(tmp_path, failing, how):
    port = warm.free_port()
    processes = [
        warm.start(
            tmp_path / f"output{rank}",
            join_and_fail,
            toy_cfg(tmp_path / "out"),
            failing,
            how,
            environment=warm.as_torchrun_tells(rank, 2, port),
        )
        for rank in range(2)
    ]
    statuses = [process.status(IN_TIME) for process in processes]
    left, gone = processes[1 - failing], processes[failing]
    assert statuses[1 - failing] == 1, left.output
    assert len(LOST.findall(left.output)) == 1, left.output
    assert "Traceback" not in left.output
    assert statuses[failing] == (-signal.SIGKILL if how == "killed" else 2)
    assert ("error: a.png: label 7 is wrong\n" in gone.output) == (how == "wrong input")
    assert "Traceback" not in gone.output


@pytest.mark.parametrize(
    ("function", "arguments", "status", "line"),
    [
        (
            spawn_and_fail,
            (0, "killed"),
            1,
            "error: process 0 was killed (SIGKILL), which the system does when",
        ),
        (
            spawn_and_fail,
            (1, "killed"),
            1,
            "error: process 1 was killed (SIGKILL), which the system does when",
        ),
        (spawn_and_fail, (1, "wrong input"), 2, "error: a.png: label 7 is wrong"),
        (spawn_beside_an_evaluation, (), 2, "error: a.png: label 7 is wrong"),
    ],
)
def test_the_parent_reports_the_process_that_failed_first(tmp_path, function, arguments, status, line):
    cfgs = (toy_cfg(tmp_path / "out"),) if arguments else ()
    started = warm.start(tmp_path / "output", function, *cfgs, *arguments)
    assert started.status(IN_TIME) == status, started.output
    assert started.output.splitlines()[-1].startswith(line)
    assert not LOST.search(started.output)
    assert "Traceback" not in started.output


@pytest.mark.parametrize(
    "message",
    [
        "[/pytorch/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:4711",
        "[../gloo/transport/tcp/pair.cc:534] Read error [::ffff:10.0.0.2]:4711: Connection reset by peer",
        "[gloo/transport/tcp/buffer.cc:72] Timed out waiting 1800000ms for recv operation to complete",
        "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.hpp:219, remote process exited or "
        "there was a network error, NCCL version 2.17.1",
        "[c10d] failed to recv, got 0 bytes",
    ],
)
def test_lost_connections_are_recognized_by_the_libraries_messages(message):
    line = r"^process 3 lost the connection to another process"
    with pytest.raises(LostProcessError, match=line) as error, lost_processes_explained(3):
        raise RuntimeError(message)
    assert ("at 10.0.0.2:" in str(error.value)) == ("10.0.0.2" in message)


def test_other_failures_are_unchanged():
    with pytest.raises(RuntimeError, match="DataLoader worker") as error, lost_processes_explained(3):
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Connection reset by peer")
    assert not isinstance(error.value, LostProcessError)
