#!/usr/bin/env python
"""Kill and stop trainings at random moments, resume them, and compare the results with an uninterrupted run.

A third by SIGKILL, a third by SIGTERM, a third by SIGINT (Ctrl-C). At half of the moments a process sends
itself the signal in a function call, Python's or compiled, anywhere in setup, training, evaluation and
writing of checkpoints, the same ones with the same seed; half of these are steps that write a checkpoint, or
the name of the last one, to disk: opening, writing, flushing, renaming a file. The other moments are times by
the parent's clock, also in the middle of a call.

After each training: weights, optimizer and all else in the checkpoints are bitwise those of the uninterrupted
run, metrics.json and TensorBoard have each line and event once, and no checkpoint was damaged. After each
end: SIGTERM and SIGINT have lost no iteration and have said how to resume; SIGKILL has lost at most the
iterations between two checkpoints.
"""

import argparse
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import NoReturn

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import segzoo.engine.setup as setup
from segzoo.checkpoint import atomic_save
from segzoo.data.workers import job_signals_blocked
from segzoo.engine.distributed.signals import EXIT_STATUS, StoppedBySignal, stop_on_signals
from tests.engine.toy_training import TIMES, ToyTrainer, metrics, run_toy, toy_cfg

ITERATIONS = 24
PERIOD = 3
KEPT = 2
NUMBERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


class ScoredTrainer(ToyTrainer):
    """A trainer whose evaluation depends on the weights only, and sometimes gives the best model so far."""

    @classmethod
    def test(cls, cfg, model):
        torch.rand(3)
        return {"sem_seg": {"mIoU": 1000 * model.head.weight.sum().item() % 7}}

    def run_step(self):
        super().run_step()
        with steps_file(self.cfg.OUTPUT_DIR).open("a") as file:
            file.write(f"{self.iter}\n")


def steps_file(folder: str | Path) -> Path:
    """Return the file in which a training lists its iterations since its start."""
    return Path(folder).with_suffix(".steps")


def train(folder: Path) -> None:
    changes = {
        "SOLVER__MAX_ITER": ITERATIONS,
        "SOLVER__CHECKPOINT_PERIOD": PERIOD,
        "SOLVER__CHECKPOINT_KEEP": KEPT,
        "SOLVER__LOG_PERIOD": 2,
        "MODEL__MASK_FORMER__DROPOUT": 0.1,
        "DATASETS__TEST": ("toy_val",),
        "TEST__EVAL_PERIOD": 4,
        "TEST__BEST_METRIC": "sem_seg/mIoU",
    }
    run_toy(toy_cfg(folder, **changes), resume=True, trainer_class=ScoredTrainer)


class Calls:
    """Counter of function calls in this thread, which sends this process a signal at one of them.

    Attributes:
        calls: number of calls and returns.
        file_steps: number of those that change files while a checkpoint is written.
    """

    FILE_STEPS = ("open", "write", "flush", "fsync", "close", "replace", "unlink", "truncate", "rename")

    def __init__(self, kill_at: int = 0, counted: str = "calls", number: int = signal.SIGKILL):
        self.calls = 0
        self.file_steps = 0
        self._kill_at = kill_at
        self._counted = counted
        self._number = number
        self._depth = 0

    def __enter__(self):
        save = atomic_save.write_atomically

        def counted(*arguments):
            self._depth += 1
            try:
                return save(*arguments)
            finally:
                self._depth -= 1

        atomic_save.write_atomically = counted
        sys.modules["segzoo.checkpoint.checkpointer"].write_atomically = counted
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def _count(self, frame, event, argument):
        self.calls += 1
        if self._depth and event != "call" and getattr(argument, "__name__", "") in self.FILE_STEPS:
            self.file_steps += 1
        elif self._counted == "file_steps":
            return
        if self._kill_at and self._kill_at == getattr(self, self._counted):
            os.kill(os.getpid(), self._number)


def start(folder: Path, calls: Calls, report: Path | None = None) -> int:
    """Fork a process that trains, or resumes a training; return its id."""
    steps_file(folder).unlink(missing_ok=True)
    with job_signals_blocked():
        child = os.fork()
        if not child:
            _run(folder, calls, report)
    return child


def _run(folder: Path, calls: Calls, report: Path | None) -> NoReturn:
    status = 1
    try:
        output = os.open(folder.with_suffix(".out"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        torch.set_num_threads(1)
        # Skipped to save half of the time: it starts programs to ask for their versions.
        setup.collect_env_info = lambda: "not collected"
        with stop_on_signals():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_STATUS)
            with calls:
                train(folder)
            signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_STATUS)  # too late
        if report:
            report.write_text(f"{calls.calls} {calls.file_steps}")
        status = 0
    except StoppedBySignal as stopped:
        status = stopped.exit_status
        print(stopped)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(child: int) -> int:
    """Wait for a process; return its status, -9 if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def lost_iterations(folder: Path) -> int:
    """Return the number of iterations that a training that ended early has to repeat."""
    file = steps_file(folder)
    if not file.exists():
        return 0
    last = int(file.read_text().splitlines()[-1])
    try:
        name = (folder / "last_checkpoint").read_text()
        saved = torch.load(folder / name, weights_only=True)["iteration"]
    except FileNotFoundError:
        saved = -1
    return last - saved


def check_end(folder: Path, status: int, number: int) -> int:
    """Check a training that was ended by a signal; return the number of lost iterations.

    Raises:
        AssertionError: too many are lost, or nothing was printed.
    """
    lost = lost_iterations(folder)
    said = folder.with_suffix(".out").read_text()
    if number == signal.SIGKILL:
        assert status == -number, said
        assert lost <= PERIOD, f"{lost} iterations are lost after SIGKILL in {folder}"
        return lost
    assert status == EXIT_STATUS[number], said
    last = said.splitlines()[-1]
    assert last.startswith(f"{signal.Signals(number).name}: stopped"), last
    assert "--resume continues" in last, last
    assert lost == 0, f"{lost} iterations are lost after {last!r}"
    return lost


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    shown = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        name: [(event.step, event.value) for event in shown.Scalars(name)]
        for name in shown.Tags()["scalars"]
        if name not in TIMES
    }


def assert_equal(found: object, expected: object, where: str) -> None:
    """Assert that nested containers of numbers and tensors are bitwise equal."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        timeless = expected.keys() - set(TIMES)
        assert found.keys() - set(TIMES) == timeless, f"{where}: {found.keys() ^ expected.keys()}"
        for key in timeless:
            assert_equal(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), f"{where}: {found} instead of {expected}"
        for index, value in enumerate(expected):
            assert_equal(found[index], value, f"{where}/{index}")
    else:
        assert found == expected, f"{where}: {found} instead of {expected}"


def compare(folder: Path, whole: Path) -> None:
    """Compare the files of the interrupted training with those of the other one.

    Raises:
        AssertionError: something differs; the message says what.
    """
    found, expected = ({path.name for path in where.glob("*.pth")} for where in (folder, whole))
    # A checkpoint written when a training was stopped may be among the last ones.
    assert len(found) == len(expected), f"checkpoints in {folder}: {found}"
    assert {"model_final.pth", "model_best.pth"} <= found
    for name in sorted(found & expected):
        first, second = (torch.load(path / name, weights_only=True) for path in (folder, whole))
        assert_equal(first, second, name)
    assert metrics(folder) == metrics(whole), f"metrics.json in {folder}"
    assert_equal(read_events(folder), read_events(whole), "TensorBoard")
    left = [path.name for path in folder.iterdir() if ".writing" in path.name]
    assert not left, f"half-written files in {folder}: {left}"
    log = (folder / "log.txt").read_text()
    assert "trying the checkpoint before it" not in log, f"a damaged checkpoint: {folder / 'log.txt'}"
    assert "does not name a file" not in log, f"a damaged last_checkpoint: {folder / 'log.txt'}"


def kill_many(kills: int, seed: int, folder: Path, say=lambda text: None) -> Counter:
    """Return the numbers of ends by moment (calls, file_steps, clock) and by signal, and of lost iterations.

    Raises:
        AssertionError: a training could not be resumed, or its result differs.
    """
    chosen = random.Random(seed)
    whole, counts = folder / "whole", folder / "counts"
    started = time.monotonic()
    status = ended(start(whole, Calls(), counts))
    assert status == 0, whole.with_suffix(".out").read_text()
    seconds = time.monotonic() - started
    totals = dict(zip(("calls", "file_steps"), map(int, counts.read_text().split()), strict=True))
    say(f"uninterrupted: {seconds:.2f} s, {totals}")

    done: Counter = Counter()
    training = ends = 0
    while ends < kills:
        training += 1
        cut = folder / f"cut_{training}"
        while True:
            enough = ends >= kills
            way = "end" if enough else chosen.choice((*totals, "clock", "clock"))
            # Early enough that a training is killed several times.
            part, number = chosen.uniform(0.02, 0.6), chosen.choice(NUMBERS)
            child = start(cut, Calls(int(part * totals[way]), way, number) if way in totals else Calls())
            if way == "clock":
                time.sleep(part * seconds)
                os.kill(child, number)
            status = ended(child)
            if status == 0:
                break
            done["lost"] += check_end(cut, status, number)
            done[way] += 1
            done[signal.Signals(number).name] += 1
            ends += 1
        compare(cut, whole)
        say(f"training {training}: equal to the uninterrupted one; {ends} ends so far")
        shutil.rmtree(cut)
    return done


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100, help="number of kills (default 100: some minutes)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default 0)")
    args = parser.parse_args(arguments)
    # It warns about the purged events of killed runs.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="segzoo_kills_") as folder:
        done = kill_many(args.kills, args.seed, Path(folder), lambda text: print(text, flush=True))
    ways = (
        f"{done['calls']} at any call, {done['file_steps']} at steps of writing, {done['clock']} by the clock"
    )
    numbers = ", ".join(
        f"{done[signal.Signals(number).name]} {signal.Signals(number).name}" for number in NUMBERS
    )
    print(
        f"{args.kills} kills: {numbers}; {ways}; every training was resumed, with the result of the "
        f"uninterrupted one; SIGTERM and SIGINT lost nothing, SIGKILL {done['lost']} iterations in total, at "
        f"most {PERIOD} each"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
