#!/usr/bin/env python
"""Kills and stops trainings at random moments, resumes them, and compares what they leave with a whole one.

A third by SIGKILL, a third by SIGTERM, a third by SIGINT (Ctrl-C). Half of the moments are calls of a
function, Python's or compiled, at which a process sends itself the signal: any between two steps of setting
up, training, evaluating, and writing checkpoints, the same ones with the same seed; half of these are
before or after one by which a checkpoint, or the name of the last one, comes onto the disk: opening,
writing, flushing, renaming a file. The other moments are times, by the clock of the parent: also in the
middle of a call.

After each training: weights, optimizer and all else in the checkpoints are bitwise those of the uninterrupted
run, metrics.json and TensorBoard have each line and event once, and no checkpoint was ever found damaged.
After each end: SIGTERM and SIGINT have lost no iteration and have said how to go on; SIGKILL has lost no more
than there are between two checkpoints.
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
from segzoo.data.workers import out_of_reach
from segzoo.engine.distributed.signals import EXIT_STATUS, StoppedBySignal, stop_on_signals
from tests.engine.toy_training import TIMES, ToyTrainer, metrics, run_toy, toy_cfg

ITERATIONS = 24
PERIOD = 3
KEPT = 2
NUMBERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


class ScoredTrainer(ToyTrainer):
    """Its evaluation depends on the weights only, and now and then gives the best model so far."""

    @classmethod
    def test(cls, cfg, model):
        torch.rand(3)
        return {"sem_seg": {"mIoU": 1000 * model.head.weight.sum().item() % 7}}

    def run_step(self):
        super().run_step()
        with steps_file(self.cfg.OUTPUT_DIR).open("a") as file:
            file.write(f"{self.iter}\n")


def steps_file(folder: str | Path) -> Path:
    """Where a training writes each iteration down that it has done since it was started."""
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
    """Counts the calls of functions in this thread; sends this process a signal at one of them.

    Attributes:
        calls: of functions, and returns from them.
        file_steps: those of them that change files while a checkpoint is written.
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
    """Forks a process that trains, or goes on with it; returns its number."""
    steps_file(folder).unlink(missing_ok=True)
    with out_of_reach():
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
        # It starts programs to ask for their versions; half of the time would go there.
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
    """Waits; 0, -9 where the process was killed, or the status of one that was stopped."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def lost_iterations(folder: Path) -> int:
    """How many iterations a training that has ended early has to do again."""
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
    """What an end by a signal has left; returns how many iterations are lost.

    Raises:
        AssertionError: too many, or nothing was said.
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
    assert "--resume goes on" in last, last
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
    """Of nested containers of numbers and tensors, bitwise."""
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
    """What the interrupted training has left, with what the other one has.

    Raises:
        AssertionError: something differs; the message says what.
    """
    found, expected = ({path.name for path in where.glob("*.pth")} for where in (folder, whole))
    # That of an iteration at which a training was stopped may be among the last ones, too.
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
    """Returns how many processes have ended in which way: "calls", "file_steps" (see the top) or "clock"; by
    which signal: "SIGKILL", "SIGTERM", "SIGINT"; and how many iterations were "lost" in all.

    Raises:
        AssertionError: a training could not be resumed, or its result is another one.
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
    parser.add_argument("--kills", type=int, default=100, help="how many (default 100: some minutes)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    args = parser.parse_args(arguments)
    # It remarks on what it hides: the events of killed runs that are written again.
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
        f"uninterrupted one; SIGTERM and SIGINT lost nothing, SIGKILL {done['lost']} iterations in all, at "
        f"most {PERIOD} each"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
