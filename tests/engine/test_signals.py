"""SIGUSR2, SIGTERM, Ctrl-C: an iteration is finished and saved; a resumed run is the uninterrupted one."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from segzoo.data.workers import JOB_SIGNALS
from segzoo.engine import launch
from segzoo.engine.distributed import signals
from segzoo.engine.distributed.signals import EXIT_STATUS, StoppedBySignal, stop_on_signals
from tests.engine import warm
from tests.engine.toy_training import ToyTrainer, assert_same_weights, metrics, run_toy, toy_cfg, weights

REPOSITORY = Path(__file__).resolve().parents[2]


class Signaller(HookBase):
    """Hook that sends this process a signal in the middle of an iteration."""

    def __init__(self, iteration, number, rank):
        self._moment = (iteration, rank)
        self._number = number

    def before_step(self):
        if (self.trainer.iter, comm.get_rank()) == self._moment:
            os.kill(os.getpid(), self._number)


def run_signalled(cfg, iteration, number, rank=0, scores=None, resume=False):
    """Run a training that gets a signal in an iteration, in one of its processes."""

    class Signalled(ToyTrainer):
        def build_hooks(self):
            return [Signaller(iteration, number, rank), *super().build_hooks()]

    Signalled.scores = iter(scores or ())
    with stop_on_signals():
        run_toy(cfg, resume, Signalled)


def assert_saved(folder, iteration):
    """Assert that the last checkpoint is that of an iteration, and complete."""
    name = (folder / "last_checkpoint").read_text()
    checkpoint = torch.load(folder / name, weights_only=True)
    assert checkpoint["iteration"] == iteration
    return checkpoint


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGUSR2, 75), (signal.SIGTERM, 79), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
)
@pytest.mark.parametrize("iteration", [0, 3, 5])  # 3 has a periodic checkpoint
def test_a_stopped_training_resumes_to_the_result_it_would_have_had(tmp_path, number, status, iteration):
    cfg = toy_cfg(tmp_path / "stopped", MODEL__MASK_FORMER__DROPOUT=0.1)
    before = signal.getsignal(number)
    with pytest.raises(
        StoppedBySignal, match=rf"^{number.name}: stopped after iteration {iteration};"
    ) as end:
        run_signalled(cfg, iteration, number)
    assert end.value.exit_status == status == EXIT_STATUS[number]
    assert signal.getsignal(number) == before
    assert_saved(tmp_path / "stopped", iteration)

    resumed = run_toy(cfg, resume=True)
    assert resumed.start_iter == iteration + 1
    run_toy(toy_cfg(tmp_path / "whole", MODEL__MASK_FORMER__DROPOUT=0.1))
    assert_same_weights(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_a_signal_in_the_last_iteration_leaves_the_evaluation_for_later(tmp_path):
    cfg = toy_cfg(tmp_path, DATASETS__TEST=("toy_val",))
    with pytest.raises(StoppedBySignal):
        run_signalled(cfg, 9, signal.SIGUSR2)
    assert (tmp_path / "model_final.pth").exists()
    ToyTrainer.scores = iter([42.0])
    run_toy(cfg, resume=True)
    assert [line["sem_seg/mIoU"] for line in metrics(tmp_path) if "sem_seg/mIoU" in line] == [42.0]


def scores_with_signal(number, values):
    """Return the score of an evaluation in which a signal arrives."""
    os.kill(os.getpid(), number)
    time.sleep(0.1)  # Reached only if the evaluation continues.
    yield from values


def test_a_signal_during_an_evaluation_ends_it_at_once(tmp_path):
    cfg = toy_cfg(tmp_path, DATASETS__TEST=("toy_val",), TEST__EVAL_PERIOD=4)
    with pytest.raises(StoppedBySignal, match="stopped at once"):
        run_signalled(cfg, -1, signal.SIGTERM, scores=scores_with_signal(signal.SIGTERM, [1.0]))
    assert_saved(tmp_path, 3)
    ToyTrainer.scores = iter([1.0, 2.0, 3.0])
    run_toy(cfg, resume=True)
    found = {line["iteration"]: line["sem_seg/mIoU"] for line in metrics(tmp_path) if "sem_seg/mIoU" in line}
    assert found == {3: 1.0, 7: 2.0, 9: 3.0}


def test_a_signal_in_an_evaluation_loses_no_iteration(tmp_path):
    """The evaluation after iteration 5 comes between two checkpoints."""
    changes = {"DATASETS__TEST": ("toy_val",), "TEST__EVAL_PERIOD": 6, "MODEL__MASK_FORMER__DROPOUT": 0.1}
    cfg = toy_cfg(tmp_path / "cut", **changes)
    with pytest.raises(StoppedBySignal, match=r"^SIGINT: stopped at once, in an evaluation; .* iteration 5$"):
        run_signalled(cfg, -1, signal.SIGINT, scores=scores_with_signal(signal.SIGINT, [1.0]))
    assert_saved(tmp_path / "cut", 5)
    ToyTrainer.scores = iter([1.0, 2.0])
    assert run_toy(cfg, resume=True).start_iter == 6
    ToyTrainer.scores = iter([1.0, 2.0])
    run_toy(toy_cfg(tmp_path / "whole", **changes))
    assert_same_weights(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def run_of_two(folder):
    """For `launch`: run two trainings, in each of which only process 1 gets a signal, in iteration 2."""
    with pytest.raises(StoppedBySignal, match="SIGUSR2: stopped after iteration 3;"):
        run_signalled(toy_cfg(folder / "training"), 2, signal.SIGUSR2, rank=1)
    cfg = toy_cfg(folder / "evaluation_due", DATASETS__TEST=("toy_val",), TEST__EVAL_PERIOD=3)
    run_signalled(cfg, 2, signal.SIGTERM, rank=1, scores=[1.0])


def test_a_signal_that_reaches_one_process_stops_all_after_the_same_iteration(tmp_path):
    with pytest.raises(StoppedBySignal, match="SIGTERM: stopped after iteration 2;"):
        launch(run_of_two, 2, args=(tmp_path,), device="cpu")
    for name, last in (("training", 3), ("evaluation_due", 2)):
        assert len(assert_saved(tmp_path / name, last)["random_states"]) == 2
        assert not any("sem_seg/mIoU" in line for line in metrics(tmp_path / name))


class StoppedInEvaluation(ToyTrainer):
    """A trainer whose process `which` alone gets a signal in its evaluation; the other computes or waits."""

    which, waits = 1, False

    @classmethod
    def test(cls, cfg, model):
        if comm.get_rank() == cls.which:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        elif cls.waits:
            comm.all_gather(None)
        else:
            time.sleep(60)


def run_stopped_in_evaluation(folder, which, waits):
    trainer = type("T", (StoppedInEvaluation,), {"which": which, "waits": waits})
    # Between two checkpoints.
    cfg = toy_cfg(folder, DATASETS__TEST=("toy_val",), TEST__EVAL_PERIOD=6)
    with stop_on_signals():
        run_toy(cfg, False, trainer)


@pytest.mark.parametrize(("which", "waits"), [(1, False), (1, True), (0, False), (0, True)])
def test_a_signal_to_one_process_in_an_evaluation_loses_no_iteration(tmp_path, which, waits):
    job = (run_stopped_in_evaluation, 2, 1, 0, "auto", (tmp_path / "out", which, waits))
    process = warm.start(tmp_path / "output", warm.launch_by_forking, *job)
    assert process.status() == EXIT_STATUS[signal.SIGTERM], process.output
    assert (
        "SIGTERM: stopped at once, in an evaluation; --resume continues after iteration 5" in process.output
    )
    assert "Traceback" not in process.output
    assert len(assert_saved(tmp_path / "out", 5)["random_states"]) == 2


class SignalledInSaving(StoppedInEvaluation):
    """A trainer that gets the same signal again, as from the parent, while process 0 saves."""

    def prepared_checkpoint(self):
        save = super().prepared_checkpoint()

        def interrupted_save():
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
            save()

        return interrupted_save


def run_signalled_in_saving(folder):
    signals.SECONDS_OF_ONE_REQUEST[signal.SIGTERM] = 0.05
    cfg = toy_cfg(folder, DATASETS__TEST=("toy_val",), TEST__EVAL_PERIOD=6)
    with stop_on_signals():
        run_toy(cfg, False, type("T", (SignalledInSaving,), {"which": 0, "waits": False}))


def test_a_repeated_signal_to_the_process_that_saves_for_all_loses_nothing(tmp_path):
    job = (run_signalled_in_saving, 2, 1, 0, "auto", (tmp_path / "out",))
    process = warm.start(tmp_path / "output", warm.launch_by_forking, *job)
    assert process.status() == EXIT_STATUS[signal.SIGTERM], process.output
    assert len(assert_saved(tmp_path / "out", 5)["random_states"]) == 2


class Slow(ToyTrainer):
    def run_step(self):
        time.sleep(0.05)
        super().run_step()


def run_slowly(folder):
    with stop_on_signals():
        run_toy(toy_cfg(folder, SOLVER__MAX_ITER=2000, SOLVER__CHECKPOINT_PERIOD=0), False, Slow)


def has_begun(folder):
    return (folder / "metrics.json").exists() and (folder / "metrics.json").stat().st_size > 0


def test_the_parent_forwards_a_signal_to_its_processes(tmp_path):
    def send():
        while not has_begun(tmp_path):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    with pytest.raises(StoppedBySignal, match="SIGTERM: stopped after iteration") as end:
        launch(run_slowly, 2, args=(tmp_path,), device="cpu")
    sender.join()
    assert end.value.signal == signal.SIGTERM
    last = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])["iteration"]
    assert len(assert_saved(tmp_path, last)["random_states"]) == 2


def test_the_same_signal_again_ends_the_process_at_once(tmp_path):
    script = (
        "from segzoo.engine.distributed.signals import *; import time, signal\n"
        "with stop_on_signals() as signals, signals.at_iteration_end():\n"
        "    print('ready', flush=True)\n"
        "    while signals.received is None: time.sleep(0.01)\n"
        "    print('received', flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # One request: the process group and the parent may both send it.
    assert process.stdout.readline() == "received\n"
    time.sleep(2.1)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM


def test_a_second_ctrl_c_ends_a_busy_process_at_once():
    script = (
        "import ctypes\n"
        "from segzoo.engine.distributed.signals import stop_on_signals\n"
        "with stop_on_signals() as signals, signals.at_iteration_end():\n"
        "    print('ready', flush=True)\n"
        "    for _ in range(3): ctypes.CDLL(None).sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.7)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == -signal.SIGINT
    said = process.stderr.read()
    assert said.count("finishing the iteration, then saving; press again to end at once") == 1
    assert "Traceback" not in said


def test_a_training_under_nohup_continues(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run_signalled(toy_cfg(tmp_path), 3, signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "model_final.pth").exists()


@pytest.mark.parametrize(("status", "found"), [(130, -signal.SIGINT), (79, 79), (0, 0)])
def test_a_tool_ended_by_ctrl_c_has_the_signal_as_its_status_in_the_shell(status, found):
    """Only then does a shell end its loop over several trainings; it shows 130 in both cases."""
    script = (
        "import atexit\n"
        "from segzoo.cli.interrupts import end\n"
        "atexit.register(print, 'cleaned up')\n"
        "print('said')\n"
        f"end({status})\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (found, "said\ncleaned up\n", "")


def test_a_training_in_another_thread_runs_without_handlers(tmp_path):
    handler, problems = signal.getsignal(signal.SIGINT), []

    def train():
        try:
            run_signalled(toy_cfg(tmp_path), -1, signal.SIGINT)
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join(60)
    assert not problems
    assert (tmp_path / "model_final.pth").exists()
    assert signal.getsignal(signal.SIGINT) == handler


def test_without_stop_on_signals_ctrl_c_raises_keyboard_interrupt(tmp_path):
    trainer = type("T", (ToyTrainer,), {"build_hooks": hooks_with(Signaller(5, signal.SIGINT, 0))})
    # A shell ignores it in what it starts in the background, tests too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_toy(toy_cfg(tmp_path), trainer_class=trainer)
    finally:
        signal.signal(signal.SIGINT, before)
    assert_saved(tmp_path, 3)


def hooks_with(hook):
    return lambda trainer: [hook, *ToyTrainer.build_hooks(trainer)]


class Stuck(ToyTrainer):
    """A trainer whose loader reports waiting, like segzoo's; from iteration `at` on no batch comes."""

    at = 6

    @classmethod
    def build_train_loader(cls, cfg, start_iteration):
        class Loader:
            while_waiting = staticmethod(lambda seconds: None)

            def __iter__(self):
                batches = ToyTrainer.build_train_loader(cfg, start_iteration)
                for iteration in itertools.count(start_iteration):
                    if iteration == cls.at:
                        os.kill(os.getpid(), signal.SIGTERM)
                        for seconds in range(100):
                            self.while_waiting(seconds)
                        raise AssertionError("nothing ended the training")
                    yield next(batches)

        return Loader()


@pytest.mark.parametrize(("at", "saved"), [(6, 5), (0, None)])
def test_a_signal_ends_a_training_that_waits_for_a_batch(tmp_path, at, saved):
    cfg = toy_cfg(tmp_path / "stuck", MODEL__MASK_FORMER__DROPOUT=0.1)
    message = "stopped while waiting for a batch" if saved is None else f"stopped after iteration {saved};"
    with pytest.raises(StoppedBySignal, match=message), stop_on_signals():
        run_toy(cfg, trainer_class=type("S", (Stuck,), {"at": at}))
    if saved is None:
        assert not (tmp_path / "stuck" / "last_checkpoint").exists()
        return
    assert_saved(tmp_path / "stuck", saved)
    run_toy(cfg, resume=True)
    run_toy(toy_cfg(tmp_path / "whole", MODEL__MASK_FORMER__DROPOUT=0.1))
    assert_same_weights(weights(tmp_path / "stuck"), weights(tmp_path / "whole"))
    assert metrics(tmp_path / "stuck") == metrics(tmp_path / "whole")


def test_a_job_cancelled_after_its_time_limit_is_not_requeued():
    with stop_on_signals() as signals, signals.at_iteration_end():
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            os.kill(os.getpid(), number)
    assert signals.stopped("").signal == signal.SIGTERM


class ProcessIds(torch.utils.data.Dataset):
    """A dataset whose items are the id of the process that loads them."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return os.getpid()


def test_data_loader_workers_survive_the_signals_of_a_scheduler():
    with stop_on_signals():
        batches = iter(torch.utils.data.DataLoader(ProcessIds(), num_workers=1, prefetch_factor=1))
        worker = int(next(batches))
        assert worker != os.getpid()
        for number in EXIT_STATUS:
            os.kill(worker, number)
        assert [int(other) for other in batches] == [worker] * 19
    deadline = time.monotonic() + 20
    while worker in {child.pid for child in multiprocessing.active_children()}:
        assert time.monotonic() < deadline, "the loader's process is still there"
        time.sleep(0.05)


def test_workers_are_out_of_reach_of_every_signal_that_ends_a_job():
    assert set(EXIT_STATUS) == JOB_SIGNALS


class Store(dict):
    """The part of a TCPStore that signals use."""

    def compare_set(self, key, expected, value):
        if self.get(key, "") == expected:
            self[key] = value

    def check(self, keys):
        return all(key in self for key in keys)


@pytest.mark.parametrize(("processes", "period"), [(2, 1), (64, 1), (130, 3), (512, 8)])
@pytest.mark.parametrize("at", range(7))
def test_many_processes_look_for_signals_less_often_and_still_end_together(
    monkeypatch, processes, period, at
):
    store, checks = Store(), []
    monkeypatch.setattr(signals.comm, "get_world_size", lambda: processes)
    monkeypatch.setattr(signals.dist.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(Store, "check", lambda self, keys: checks.append(keys) or keys[0] in self)
    group = [signals.StopSignals() for _ in range(3)]
    for one in group:
        one._key = "stop"
    ended, iteration = [], -1
    while not ended:
        iteration += 1
        # Processes end an iteration in any order, but none before all have begun it.
        for rank in sorted(range(3), key=lambda rank: (rank * 7 + iteration) % 3):
            if (iteration, rank) == (at, 1):
                group[rank].received = signal.SIGTERM
            if group[rank].last_iteration(iteration):
                ended.append(rank)
    assert sorted(ended) == [0, 1, 2]
    assert at < iteration <= at + 2 * period
    assert {one.received for one in group} == {signal.SIGTERM}
    assert len(checks) <= 3 * (iteration + 1) / period
