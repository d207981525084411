"""Graceful shutdown on SIGUSR2 (time limit), SIGTERM (cancellation), SIGINT (Ctrl-C) and SIGHUP (closed
terminal or connection; ignored under nohup).

Inside `stop_on_signals()` a signal does this:

- while iterations run, all processes finish the same one, save a checkpoint and raise `StoppedBySignal`;
- at any other time (start, evaluation) `StoppedBySignal` is raised at once;
- the same signal again, a moment later, ends the process by the signal's default action.
"""

import ctypes
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

from segzoo.utils.exit_status import EXIT_STATUS

logger = logging.getLogger(__name__)

# Time within which a repeated signal counts as the same request. It can arrive twice, through the process
# group and from a parent that forwards it, and schedulers repeat it; a second Ctrl-C is intended. The system
# and the shell both announce the end of a terminal, after which no user can repeat it.
SECONDS_OF_ONE_REQUEST = {signal.SIGUSR2: 2.0, signal.SIGTERM: 2.0, signal.SIGINT: 0.5, signal.SIGHUP: 600.0}
# Time that a stopping training waits for its next batch, to finish the iteration.
SECONDS_FOR_A_BATCH = 5.0
# Time that the other processes wait for the main process to begin saving, and to finish it.
SECONDS_UNTIL_SAVING = 3.0
SECONDS_FOR_SAVING = 60.0
# Number of processes that ask the main process for a signal in one iteration, 20 microseconds each.
PROCESSES_PER_ITERATION = 64
# Time between two checks, during an evaluation, whether another process has received a signal.
SECONDS_BETWEEN_POLLS = 0.5
_AT_CTRL_C = b"\nCtrl-C: finishing the iteration, then saving; press again to end at once without saving\n"
# No signal has this number.
_END = b"\0"
# Gives successive trainings in the same processes separate keys in the store.
_numbers = itertools.count()


class StoppedBySignal(BaseException):
    """End of a job at a signal; not an `Exception`, so that no handler takes it for a failure.

    Attributes:
        signal: the signal.
        exit_status: exit status for the process.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message, int(number))
        self.signal = signal.Signals(number)
        self.exit_status = EXIT_STATUS[self.signal]

    def __str__(self) -> str:
        return self.args[0]


class StopSignals:
    """State of the signals received by one process, and agreement between all; see `stop_on_signals`.

    Attributes:
        received: the signal that asks for an end, None before.
        continued_by: what continues the training from its last checkpoint, in words.
        advice: what to do after an end at which nothing could be saved.
        resume_command: command that resumes the job, "" where it is not known.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.continued_by = "--resume"
        self.advice = self.advice_to_continue()
        self.resume_command = ""
        self._owner = os.getpid()
        self._waiting_for_iteration = False
        self._raised = self._acknowledged = self._saves_alone = False
        self._last_iteration: int | None = None
        self._key = f"segzoo/stop/{next(_numbers)}"

    def advice_to_continue(self) -> str:
        """Return the advice while a training runs."""
        return f"{self.continued_by} continues from the last checkpoint, if there is one"

    def handle(self, number: int, frame: object = None) -> None:
        """Handle a signal."""
        if os.getpid() != self._owner:
            return  # See `_in_forked_process`.
        self.received = _stronger(self.received, number)
        if not self._waiting_for_iteration:
            self._raise_once()

    @contextmanager
    def at_iteration_end(self, waiting: bool = True) -> Iterator[None]:
        """Only record signals inside; with `waiting` False, let them raise again."""
        before, self._waiting_for_iteration = self._waiting_for_iteration, waiting
        try:
            if not waiting and self.received is not None:
                self._raise_once()
            yield
        finally:
            self._waiting_for_iteration = before

    def last_iteration(self, iteration: int) -> bool:
        """Tell whether the iteration that just ended is the last; every process calls it after each one.

        The answer is the same in all although a signal may reach the processes at different times, or only
        one of them: that one announces the next iteration at whose end all look. All exchange gradients in
        that iteration, so no process can have ended it before the announcement.
        """
        if comm.get_world_size() == 1:
            return self.received is not None
        # The main process answers one process after the other: with many of them they look less often.
        period = -(-comm.get_world_size() // PROCESSES_PER_ITERATION)
        if (iteration + 1) % period:
            return False
        # A check costs a message to the main process's store and back, on one machine 20 microseconds; a
        # collective operation would cost more, and wait for the GPU.
        store = dist.distributed_c10d._get_default_store()
        if self._last_iteration is None:
            if self.received is not None:
                store.compare_set(self._key, "", f"{iteration + period} {int(self.received)}")
            if store.check([self._key]):
                self._last_iteration, number = map(int, store.get(self._key).split())
                self.received = _stronger(self.received, number)
        return self._last_iteration is not None and iteration >= self._last_iteration

    @contextmanager
    def watch_other_processes(self) -> Iterator[None]:
        """Raise in this process the signal that another process announces by `save_alone`."""
        if comm.get_world_size() == 1 or threading.current_thread() is not threading.main_thread():
            yield
            return
        store, ended = dist.distributed_c10d._get_default_store(), threading.Event()

        def look() -> None:
            with suppress(RuntimeError):  # The store is gone, with the main process.
                while not ended.wait(SECONDS_BETWEEN_POLLS):
                    if store.check([self._announcement_key]):
                        number, self._saves_alone = int(store.get(self._announcement_key)), True
                        # Otherwise it would count as a repeated signal.
                        if not (self._acknowledged or ended.is_set()):
                            signal.pthread_kill(threading.main_thread().ident, number)
                        return

        watch = threading.Thread(target=look, daemon=True)
        watch.start()
        try:
            yield
        finally:
            ended.set()
            watch.join(2 * SECONDS_BETWEEN_POLLS)

    def stop_announced(self) -> bool:
        """Tell whether this process has received a signal, or another has announced one by `save_alone`."""
        if self.received is None and comm.get_world_size() > 1:
            store = dist.distributed_c10d._get_default_store()
            with suppress(RuntimeError):  # The store is gone.
                if store.check([self._announcement_key]):
                    self.received = int(store.get(self._announcement_key))
        return self.received is not None

    def save_alone(self, save: Callable[[], None]) -> None:
        """Save in the main process, without collective operations, while the others wait for it.

        Every process calls it; the first one announces the signal to the others, see `watch_other_processes`.
        """
        if comm.get_world_size() == 1:
            save()
            return
        self._saves_alone = True
        store = dist.distributed_c10d._get_default_store()
        begun, done = f"{self._key}/saving", f"{self._key}/saved"
        # The store is gone with the main process.
        with suppress(RuntimeError):
            store.set(self._announcement_key, str(int(self.received)))
            if not comm.is_main_process():
                # The main process may wait for a message of this one, until this one ends.
                _wait_until(lambda: store.check([begun]), SECONDS_UNTIL_SAVING)
                if store.check([begun]):
                    _wait_until(lambda: store.check([done]), SECONDS_FOR_SAVING)
                return
            store.set(begun, "")
        save()
        with suppress(RuntimeError):
            store.set(done, "")
        self._saves_alone = False

    def ignores_repeat(self, number: int) -> bool:
        """Tell whether a repeated signal has no effect now.

        The parent of the processes sends SIGTERM to the others as soon as one has ended.
        """
        return number == signal.SIGTERM and self._saves_alone

    @property
    def _announcement_key(self) -> str:
        return f"{self._key}/announced"

    def any_received(self) -> bool:
        """Tell whether any process has received a signal; a collective operation."""
        for number in comm.all_gather(self.received):
            self.received = _stronger(self.received, number)
        return self.received is not None

    def stopped(self, message: str) -> StoppedBySignal:
        """Return the exception to raise after saving."""
        self._raised = True
        return StoppedBySignal(f"{signal.Signals(self.received).name}: {message}", self.received)

    def acknowledge(self, number: int) -> None:
        """Print what happens after Ctrl-C; called in any thread."""
        self._acknowledged = True
        if number == signal.SIGINT and self._waiting_for_iteration and comm.is_main_process():
            # Not through the log, which the main thread may be using.
            with suppress(OSError):
                os.write(2, _AT_CTRL_C)

    def stop_at_once(self, why: str = "stopped at once") -> NoReturn:
        """Raise `StoppedBySignal` where nothing can be saved."""
        raise self.stopped(f"{why}; {self.advice}")

    def _raise_once(self) -> None:
        if not self._raised:
            self.stop_at_once()


_active: StopSignals | None = None


def _in_forked_process() -> None:
    # Schedulers also signal data-loader workers, and the end of one would end the training. They end with the
    # training anyway: by a message, or when it is gone. torch sets its own handlers there, which a blocked
    # signal does not reach.
    if _active is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_STATUS)
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_in_forked_process)


def active() -> StopSignals | None:
    """Return the signals of the surrounding `stop_on_signals`, None outside of it."""
    return _active


@contextmanager
def stop_on_signals() -> Iterator[StopSignals]:
    """End a training with a checkpoint on signals, as this module says; no effect outside the main thread.

    Raises:
        StoppedBySignal: inside, after the checkpoint.
    """
    global _active
    before, _active = _active, StopSignals()
    try:
        with _handler(_active.handle, _active.acknowledge, ignores_repeat=_active.ignores_repeat):
            yield _active
    except StoppedBySignal as stopped:
        logger.info("%s", stopped)
        if _active.resume_command:
            logger.info("To resume: %s", _active.resume_command)
        raise
    finally:
        _active = before


@contextmanager
def iterating() -> Iterator[None]:
    """Make signals wait for the end of an iteration; around a training loop."""
    if _active is None:
        yield
        return
    with _active.at_iteration_end():
        yield


class StopHook(HookBase):
    """Hook that ends the training after an iteration if a signal asks for it.

    It comes after CheckpointHook and LRScheduler, whose work belongs in the checkpoint, and before
    EvaluationHook: a skipped evaluation is run on resuming.
    """

    def after_step(self) -> None:
        if _active is not None and _active.last_iteration(self.trainer.iter):
            self.trainer.stop_with_checkpoint(_active)


def stop_while_waiting(trainer: object, seconds: float) -> None:
    """End a training that waits for a batch if a signal asks for it.

    Args:
        seconds: time waited so far.

    Raises:
        StoppedBySignal: a signal was received. A single process has saved a checkpoint of the iteration
            before; several processes save none.
    """
    if _active is None or _active.received is None or seconds < SECONDS_FOR_A_BATCH:
        return
    if comm.get_world_size() == 1 and trainer.iter > trainer.start_iter:
        trainer.storage.iter = trainer.iter - 1
        trainer.stop_with_checkpoint(_active)
    _active.stop_at_once("stopped while waiting for a batch")


@contextmanager
def evaluating(trainer: object) -> Iterator[None]:
    """Stop before an evaluation in a training on a signal already received, during it on later ones.

    Both save what was trained since the last checkpoint. Every process of the training enters it.
    """
    if _active is None:
        yield
        return
    if _active.any_received():
        trainer.stop_with_checkpoint(_active)
    save = trainer.prepared_checkpoint()
    try:
        with _active.at_iteration_end(waiting=False), _active.watch_other_processes():
            yield
    except (StoppedBySignal, RuntimeError):
        # A RuntimeError: another process, whose message was expected, has been stopped.
        if not _active.stop_announced():
            raise
        _active.save_alone(save)
        raise _active.stopped(
            f"stopped at once, in an evaluation; {_active.continued_by} continues after iteration "
            f"{trainer.storage.iter}"
        ) from None


@contextmanager
def forward_signals(process_ids: list[int]) -> Iterator[StopSignals]:
    """Forward signals that this process receives to its children; a repeated one also ends this process.

    Args:
        process_ids: of the children; `add_children` adds more inside.
    """
    received = StopSignals()

    def forward(number: int, frame: object) -> None:
        _send(number, process_ids)
        with received.at_iteration_end():
            received.handle(number)

    with _handler(forward, children=process_ids):
        yield received


def _send(number: int, process_ids: Sequence[int]) -> None:
    for process_id in process_ids:
        with suppress(ProcessLookupError):
            os.kill(process_id, number)


def add_children(process_ids: list[int], new: Sequence[int], signals: StopSignals) -> None:
    """Add children inside `forward_signals`, and forward a signal that came while they were started."""
    process_ids += new
    if signals.received is not None:
        _send(signals.received, new)


def unblock_signals() -> None:
    """Let Ctrl-C end a process that was started `job_signals_blocked`, without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_STATUS)


@contextmanager
def _handler(
    function: Callable[[int, object], None],
    acknowledge: Callable[[int], None] = lambda number: None,
    children: Sequence[int] = (),
    ignores_repeat: Callable[[int], bool] = lambda number: False,
) -> Iterator[None]:
    """Handle signals by `function` inside; a repeated one ends this process and its children.

    Args:
        acknowledge: called in another thread as soon as a signal arrives for the first time.
        ignores_repeat: called there to tell whether a repeated one has no effect now.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows handlers in the main thread only.
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watch = threading.Thread(target=_watch, args=(reader, acknowledge, children, ignores_repeat), daemon=True)
    watch.start()
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # A job started by nohup ignores the end of its terminal.
    ignored = {number for number in (signal.SIGHUP,) if signal.getsignal(number) == signal.SIG_IGN}
    before = {number: signal.signal(number, function) for number in EXIT_STATUS.keys() - ignored}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(wakeup)
        # Not by closing the pipe: processes forked meanwhile keep it open.
        os.write(writer, _END)
        watch.join()
        os.close(writer)
        os.close(reader)


def _watch(
    reader: int,
    acknowledge: Callable[[int], None],
    children: Sequence[int],
    ignores_repeat: Callable[[int], bool],
) -> None:
    """Read signals as they arrive; Python's handler runs only when the main thread is back in Python."""
    first: dict[int, float] = {}
    while True:
        arrived = os.read(reader, 64)
        now = time.monotonic()
        for number in arrived:
            if number == _END[0]:
                return
            if number not in EXIT_STATUS:
                continue
            if number not in first:
                first[number] = now
                acknowledge(number)
            elif now - first[number] > SECONDS_OF_ONE_REQUEST[number] and not ignores_repeat(number):
                _send(number, children)
                # Not `signal.signal`, which only the main thread may call.
                ctypes.pythonapi.PyOS_setsig(number, None)
                os.kill(os.getpid(), number)


def _wait_until(happened: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not happened() and time.monotonic() < until:
        time.sleep(0.05)


def _stronger(one: int | None, other: int | None) -> int | None:
    """Return the stronger signal: a job cancelled after its time limit must not be requeued."""
    by_strength = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
    return next((number for number in by_strength if number in (one, other)), None)
