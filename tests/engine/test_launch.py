"""Processes: numbers and ranks, equal results for any number, and none left after a failure."""

import atexit
import builtins
import importlib
import os
import types
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from detectron2.utils import comm

from segzoo.engine import launch
from segzoo.engine.distributed.launch import (
    ProcessPlace,
    _rendezvous_from_environment,
    place_from_environment,
)
from segzoo.utils import threads
from segzoo.utils.errors import InputError
from tests.engine import warm
from tests.engine.toy_training import fail_in_rank_one, metrics, run_toy, run_toys, toy_cfg, weights


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The folder of a training in one process."""
    folder = tmp_path_factory.mktemp("single")
    run_toy(toy_cfg(folder))
    return folder


def assert_same_training(folder, single):
    for line, expected in zip(metrics(folder), metrics(single), strict=True):
        assert line == pytest.approx(expected, rel=1e-4), line["iteration"]
    expected = weights(single)
    for name, weight in weights(folder).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-5)


class AbortsWhenDestroyed:
    """An object that aborts the process when the interpreter destroys the objects of modules."""

    def __del__(self, abort=os.abort):
        abort()


def run_toys_and_say_goodbye(folder, *cfgs) -> None:
    run_toys(*cfgs)
    rank = comm.get_rank()
    builtins.trap = AbortsWhenDestroyed()
    atexit.register(lambda: (folder / f"exit{rank}").write_text("called"))
    print(f"goodbye of {rank}", end="")


def test_two_processes_equal_one_with_the_same_total_batch_also_in_micro_batches(single, tmp_path, capfd):
    cfgs = (toy_cfg(tmp_path / "plain"), toy_cfg(tmp_path / "accumulated", SOLVER__ACCUMULATE=2))
    launch(run_toys_and_say_goodbye, 2, args=(tmp_path, *cfgs), device="cpu")
    # A finished training does not fail when its processes end, which still do what they have to.
    assert sorted(file.name for file in tmp_path.glob("exit*")) == ["exit0", "exit1"]
    output = capfd.readouterr().out
    assert all(f"goodbye of {rank}" in output for rank in range(2))
    assert_same_training(tmp_path / "plain", single)
    assert_same_training(tmp_path / "accumulated", single)
    random_states = torch.load(tmp_path / "plain" / "model_final.pth", weights_only=True)["random_states"]
    assert len(random_states) == 2
    assert not torch.equal(random_states[0]["torch"], random_states[1]["torch"])
    assert (tmp_path / "plain" / "log.txt.rank1").exists()


def join(*cfgs) -> None:
    launch(run_toys, 1, args=cfgs, device="cpu")
    threads = [file.read_text() for file in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name], threads


def test_processes_started_by_torchrun_join_and_equal_one(single, tmp_path):
    port = warm.free_port()
    processes = [
        warm.start(
            tmp_path / f"output{rank}",
            join,
            toy_cfg(tmp_path / "out"),
            environment=warm.as_torchrun_tells(rank, 2, port),
        )
        for rank in range(2)
    ]
    assert [process.status() for process in processes] == [0, 0], [process.output for process in processes]
    assert_same_training(tmp_path / "out", single)


def test_an_explained_error_of_one_process_ends_the_others_and_is_raised_here():
    with pytest.raises(InputError, match=r"^a\.png: label 7 is wrong$"):
        launch(fail_in_rank_one, 2, args=(InputError("a.png: label 7 is wrong"),), device="cpu")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 1, 0, "auto"), "--num-gpus 0 --num-machines 1: both must be at least 1"),
        ((1, 2, 2, "tcp://a:1"), r"--machine-rank 2 is outside 0\.\.1 of --num-machines 2"),
        ((1, 2, 0, "auto"), r"--num-machines 2 needs the address .* add --dist-url tcp://HOST:PORT"),
    ],
)
def test_impossible_numbers_are_input_errors(numbers, message):
    with pytest.raises(InputError, match=message):
        launch(print, *numbers, device="cpu")


def test_more_gpus_than_visible_is_an_input_error_with_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    with pytest.raises(InputError, match=r"^--num-gpus 16 but 8 visible; use --num-machines 2\.$"):
        launch(print, 16)


def test_places_are_read_from_the_variables_of_torchrun_and_srun():
    torchrun = {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "a",
    }
    srun = {
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NUM_TASKS": "8",
        "SLURM_STEP_NUM_NODES": "2",
    }
    assert place_from_environment(torchrun) == ProcessPlace(5, 1, 8, 4)
    assert place_from_environment(srun) == ProcessPlace(5, 1, 8, 4)
    assert place_from_environment({**srun, **torchrun, "RANK": "6"}).rank == 6


def test_processes_that_cannot_join_the_others_are_refused():
    told = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}
    with pytest.raises(InputError, match="WORLD_SIZE is 2 in the environment, but LOCAL_RANK is not set"):
        place_from_environment(told)
    assert place_from_environment({**told, "WORLD_SIZE": "1"}) is None
    srun = {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "2"}
    assert place_from_environment({**told, **srun}) == ProcessPlace(1, 1, 2, 2)


def test_another_number_of_gpus_than_of_started_processes_is_an_input_error(monkeypatch):
    told = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "a"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="--num-gpus 8 but torchrun or srun has started 1 processes"):
        launch(print, 8, device="cpu", timeout=timedelta(seconds=1))


def test_a_batch_script_or_a_single_task_of_slurm_is_not_a_group():
    batch = {"SLURM_JOB_ID": "12", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4"}
    assert place_from_environment(batch) is None
    assert place_from_environment({**batch, "SLURM_STEP_NUM_TASKS": "1"}) is None


def test_uneven_tasks_per_node_are_an_input_error():
    with pytest.raises(InputError, match="3 tasks do not divide evenly over 2 nodes"):
        place_from_environment(
            {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_NUM_NODES": "2"}
        )


TWO_NODES_OF_FOUR = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_JOB_ID": "7"}


def test_two_nodes_of_four_tasks_have_eight_places():
    tasks = [
        {**TWO_NODES_OF_FOUR, "SLURM_PROCID": str(4 * node + task), "SLURM_LOCALID": str(task)}
        for node in range(2)
        for task in range(4)
    ]
    places = [place_from_environment(task) for task in tasks]
    assert places == [ProcessPlace(rank, rank % 4, 8, 4) for rank in range(8)]
    processes = [
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank % 4),
            "GROUP_RANK": str(rank // 4),
            "WORLD_SIZE": "8",
            "LOCAL_WORLD_SIZE": "4",
            "MASTER_ADDR": "n1",
            "MASTER_PORT": "29500",
            "TORCHELASTIC_RUN_ID": "x",
        }
        for rank in range(8)
    ]
    assert [place_from_environment(process) for process in processes] == places
    # torchrun under SLURM, one task per node: its numbers are used, not those of the tasks.
    node = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
    }
    assert [place_from_environment({**node, **process}) for process in processes] == places


def test_tasks_assigned_to_nodes_cyclically_are_an_input_error():
    second = {**TWO_NODES_OF_FOUR, "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
    with pytest.raises(
        InputError, match=r"task 1 is number 0 on its node, expected 1; .* --distribution=block"
    ):
        place_from_environment(second)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("gpu-b.cluster", "gpu-b.cluster"),
        ("n1,n2", "n1"),
        ("n[1-2]", "n1"),
        ("n[003,007-009],m1", "n003"),
        ("m1,n[003-009]", "m1"),
        ("rack[1-2]node[07-09]", "rack1node07"),
        ("a[5]-ib", "a5-ib"),
    ],
)
def test_all_processes_meet_on_the_first_node(nodes, first):
    urls = {
        _rendezvous_from_environment(
            {
                **TWO_NODES_OF_FOUR,
                "SLURM_STEP_NODELIST": nodes,
                "SLURM_STEP_ID": "0",
                "SLURM_PROCID": str(rank),
            }
        )
        for rank in range(8)
    }
    (url,) = urls
    assert url.startswith(f"tcp://{first}:")


def test_the_meeting_point_differs_between_jobs_and_steps():
    def url(job, step):
        environment = {"SLURM_STEP_NODELIST": "n1", "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}
        return _rendezvous_from_environment(environment)

    urls = {url(job, step) for job in range(100, 110) for step in range(10)}
    assert len(urls) == 100
    assert all(u.startswith("tcp://n1:") and 15000 <= int(u.rpartition(":")[2]) < 30000 for u in urls)
    assert _rendezvous_from_environment({"MASTER_ADDR": "a", "MASTER_PORT": "1"}) == "env://"


@pytest.mark.parametrize(("user", "each"), [(None, "2"), ("3", "3")])
def test_processes_share_the_processors_of_a_container_unless_the_user_sets_a_number(monkeypatch, user, each):
    monkeypatch.setattr(threads, "_bound_processors", lambda: 64)
    monkeypatch.setattr(threads, "_cgroup_shares", lambda: iter([8.0]))
    monkeypatch.setattr(threads, "_own_numbers", [])
    monkeypatch.setenv("OMP_NUM_THREADS", user or "1")
    if not user:
        monkeypatch.delenv("OMP_NUM_THREADS")
    threads.configure_openmp()  # as each tool does
    seen = []

    def start(*_, **__):
        seen.append(os.environ["OMP_NUM_THREADS"])
        return types.SimpleNamespace(pids=list, join=lambda: True)

    module = importlib.import_module("segzoo.engine.distributed.launch")
    monkeypatch.setattr(module.mp, "start_processes", start)
    launch(print, 4, device="cpu")
    assert seen == [each]
    assert os.environ["OMP_NUM_THREADS"] == (user or "8")
