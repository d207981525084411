"""Ending a job by SIGUSR2 (its time is up) or SIGTERM (it is cancelled) with nothing lost.

Between `stop_on_signals()` and its end a signal does this:

- while iterations run, all processes finish the same one, save a checkpoint and raise `StoppedBySignal`;
- at any other time (start, evaluation) there is nothing to save: `StoppedBySignal` is raised at once;
- the same signal again, seconds later, ends the process as if none of this existed.
"""

import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

logger = logging.getLogger(__name__)

# Exit status of a job that was stopped. 75 is sysexits' EX_TEMPFAIL, "try again"; 79 is the first number that
# sysexits leaves free. A repeated signal gives the shell's usual 128 + number.
EXIT_STATUS = {signal.SIGUSR2: 75, signal.SIGTERM: 79}

# One request can arrive twice: by the process group, and by a parent that passes it on.
SECONDS_OF_ONE_REQUEST = 2.0
# Tells the agreements of successive trainings in the same processes apart.
_numbers = itertools.count()


class StoppedBySignal(BaseException):
    """The job ends because a signal asked for it; not an `Exception`, so that nothing takes it for a failure.

    Attributes:
        signal: which one.
        exit_status: that the process should end with.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message, int(number))
        self.signal = signal.Signals(number)
        self.exit_status = EXIT_STATUS[self.signal]

    def __str__(self) -> str:
        return self.args[0]


class StopSignals:
    """What has been received, and what all processes have agreed on; see `stop_on_signals`."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._first: dict[int, float] = {}
        self._owner = os.getpid()
        self._waiting_for_iteration = False
        self._raised = False
        self._last_iteration: int | None = None
        self._key = f"segzoo/stop/{next(_numbers)}"

    def handle(self, number: int, frame: object = None) -> None:
        """The signal handler."""
        if os.getpid() != self._owner:
            return  # See `_in_forked_process`.
        now = time.monotonic()
        if now - self._first.setdefault(number, now) > SECONDS_OF_ONE_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            os.kill(self._owner, number)
        self.received = _stronger(self.received, number)
        if not self._waiting_for_iteration:
            self._raise_once()

    @contextmanager
    def at_iteration_end(self, waiting: bool = True) -> Iterator[None]:
        """Inside, a signal is only noted; with `waiting` False, it raises again."""
        before, self._waiting_for_iteration = self._waiting_for_iteration, waiting
        try:
            if not waiting and self.received is not None:
                self._raise_once()
            yield
        finally:
            self._waiting_for_iteration = before

    def last_iteration(self, iteration: int) -> bool:
        """Whether the iteration that just ended is the last; each process asks after every iteration.

        The answer is the same everywhere although a signal may reach the processes at different times, or
        only one of them: that one announces the iteration after its own. All take part in that iteration, as
        they exchange gradients in it, so no process can have ended it before the announcement.
        """
        if comm.get_world_size() == 1:
            return self.received is not None
        # Looking costs a message to the main process's store and back, on one machine 20 microseconds; a
        # collective operation would cost more, and wait for the GPU.
        store = dist.distributed_c10d._get_default_store()
        if self._last_iteration is None:
            if self.received is not None:
                store.compare_set(self._key, "", f"{iteration + 1} {int(self.received)}")
            if store.check([self._key]):
                self._last_iteration, number = map(int, store.get(self._key).split())
                self.received = _stronger(self.received, number)
        return self._last_iteration is not None and iteration >= self._last_iteration

    def any_received(self) -> bool:
        """Whether any process has received a signal; a collective operation."""
        for number in comm.all_gather(self.received):
            self.received = _stronger(self.received, number)
        return self.received is not None

    def stopped(self, message: str) -> StoppedBySignal:
        """The exception to raise, after what has to be saved is saved."""
        self._raised = True
        return StoppedBySignal(f"{signal.Signals(self.received).name}: {message}", self.received)

    def _raise_once(self) -> None:
        if not self._raised:
            raise self.stopped("stopped at once; --resume goes on from the last checkpoint, if there is one")


_active: StopSignals | None = None


def _in_forked_process() -> None:
    # Schedulers signal a data loader's processes, too, and the death of one would be the training's. They end
    # with it all the same: by a message, or when they see that it is gone. torch sets a handler of its own
    # there, which a blocked signal does not reach.
    if _active is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_STATUS)


os.register_at_fork(after_in_child=_in_forked_process)


def active() -> StopSignals | None:
    """The handler that `stop_on_signals` has put in place, None outside of it."""
    return _active


@contextmanager
def stop_on_signals() -> Iterator[StopSignals]:
    """Inside, SIGUSR2 and SIGTERM end a training with a checkpoint; no effect but in a main thread.

    Raises:
        StoppedBySignal: inside, after the checkpoint.
    """
    global _active
    before, _active = _active, StopSignals()
    try:
        with _handler(_active.handle):
            yield _active
    except StoppedBySignal as stopped:
        logger.info("%s", stopped)
        raise
    finally:
        _active = before


@contextmanager
def iterating() -> Iterator[None]:
    """Around a training loop: signals wait for the end of an iteration."""
    if _active is None:
        yield
        return
    with _active.at_iteration_end():
        yield


class StopHook(HookBase):
    """Ends the training after an iteration if a signal asks for it.

    It comes after CheckpointHook and LRScheduler, whose work belongs to the checkpoint, and before
    EvaluationHook: an evaluation that is left out is made up for on resuming.
    """

    def after_step(self) -> None:
        if _active is not None and _active.last_iteration(self.trainer.iter):
            self.trainer.stop_with_checkpoint(_active)


@contextmanager
def evaluating(trainer: object) -> Iterator[None]:
    """Around an evaluation in a training: a signal that is already there stops before it, others at once.

    Every process of the training enters it.
    """
    if _active is None:
        yield
        return
    if _active.any_received():
        trainer.stop_with_checkpoint(_active)
    with _active.at_iteration_end(waiting=False):
        yield


@contextmanager
def passed_on(process_ids: list[int]) -> Iterator[StopSignals]:
    """Inside, signals that this process receives go to its children; a repeated one ends this process too."""
    received = StopSignals()

    def pass_on(number: int, frame: object) -> None:
        for process_id in process_ids:
            try:
                os.kill(process_id, number)
            except ProcessLookupError:
                continue
        with received.at_iteration_end():
            received.handle(number)

    with _handler(pass_on):
        yield received


@contextmanager
def _handler(function: Callable[[int, object], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python has handlers in the main thread only.
        return
    before = {number: signal.signal(number, function) for number in EXIT_STATUS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _stronger(one: int | None, other: int | None) -> int | None:
    """SIGTERM counts more than SIGUSR2: a job that is cancelled after its time was up shall not go on."""
    return signal.SIGTERM if signal.SIGTERM in (one, other) else one or other
