"""Ending a job with nothing lost: by SIGUSR2 (its time is up), SIGTERM (it is cancelled), SIGINT (Ctrl-C), or
SIGHUP (its terminal is closed, the connection to another machine broken); under nohup the last has no effect.

Between `stop_on_signals()` and its end a signal does this:

- while iterations run, all processes finish the same one, save a checkpoint and raise `StoppedBySignal`;
- at any other time (start, evaluation) there is nothing to save: `StoppedBySignal` is raised at once;
- the same signal again, a moment later, ends the process as if none of this existed.
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

# One request can arrive twice: by the process group, and by a parent that passes it on. Schedulers repeat
# theirs; whoever presses Ctrl-C twice means it. The end of a terminal is told by the system and by the shell,
# and nobody is there any more who could mean it.
SECONDS_OF_ONE_REQUEST = {signal.SIGUSR2: 2.0, signal.SIGTERM: 2.0, signal.SIGINT: 0.5, signal.SIGHUP: 600.0}
# For which a training that is to end waits for its next batch, to finish the iteration.
SECONDS_FOR_A_BATCH = 5.0
# For which processes that have nothing to do any more wait for the one that saves: until it begins, and until
# it is done.
SECONDS_UNTIL_SAVING = 3.0
SECONDS_FOR_SAVING = 60.0
# Between two looks at whether another process has been told to end, in an evaluation.
SECONDS_BETWEEN_POLLS = 0.5
_AT_CTRL_C = b"\nCtrl-C: finishing the iteration, then saving; once more ends it at once, unsaved\n"
# No signal has this number.
_END = b"\0"
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
    """What has been received, and what all processes have agreed on; see `stop_on_signals`.

    Attributes:
        received: the signal that asks for an end, None before.
        advice: what to do after an end at which nothing could be saved.
        resume_command: what to type to go on, "" where it is not known.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.advice = "--resume goes on from the last checkpoint, if there is one"
        self.resume_command = ""
        self._owner = os.getpid()
        self._waiting_for_iteration = False
        self._raised = self._acknowledged = self._saves_alone = False
        self._last_iteration: int | None = None
        self._key = f"segzoo/stop/{next(_numbers)}"

    def handle(self, number: int, frame: object = None) -> None:
        """The signal handler."""
        if os.getpid() != self._owner:
            return  # See `_in_forked_process`.
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

    @contextmanager
    def watch_other_processes(self) -> Iterator[None]:
        """Inside, a signal that another process announces by `save_alone` arrives in this one, too."""
        if comm.get_world_size() == 1 or threading.current_thread() is not threading.main_thread():
            yield
            return
        store, ended = dist.distributed_c10d._get_default_store(), threading.Event()

        def look() -> None:
            with suppress(RuntimeError):  # The store is gone, and the main process with it.
                while not ended.wait(SECONDS_BETWEEN_POLLS):
                    if store.check([self._announcement_key]):
                        number, self._saves_alone = int(store.get(self._announcement_key)), True
                        # Otherwise this one would seem to be a repeated one.
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
        """Whether this process has received a signal, or another one has announced its own: `save_alone`."""
        if self.received is None and comm.get_world_size() > 1:
            store = dist.distributed_c10d._get_default_store()
            with suppress(RuntimeError):  # The store is gone.
                if store.check([self._announcement_key]):
                    self.received = int(store.get(self._announcement_key))
        return self.received is not None

    def save_alone(self, save: Callable[[], None]) -> None:
        """Has the main process save while the others, which may be anywhere, wait for it.

        Each calls it in the end: the first one tells the others, see `watch_other_processes`.
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
                # It may be waiting for a message of this process, and learns at its end that none will come.
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
        """Whether a repeated signal ends nothing just now.

        Who has started the processes sends SIGTERM to the others as soon as one has gone.
        """
        return number == signal.SIGTERM and self._saves_alone

    @property
    def _announcement_key(self) -> str:
        return f"{self._key}/told"

    def any_received(self) -> bool:
        """Whether any process has received a signal; a collective operation."""
        for number in comm.all_gather(self.received):
            self.received = _stronger(self.received, number)
        return self.received is not None

    def stopped(self, message: str) -> StoppedBySignal:
        """The exception to raise, after what has to be saved is saved."""
        self._raised = True
        return StoppedBySignal(f"{signal.Signals(self.received).name}: {message}", self.received)

    def acknowledge(self, number: int) -> None:
        """Tells whoever has pressed Ctrl-C what happens now, from whichever thread."""
        self._acknowledged = True
        if number == signal.SIGINT and self._waiting_for_iteration and comm.is_main_process():
            # Not through the log: what the main thread does with it just now must not be disturbed.
            with suppress(OSError):
                os.write(2, _AT_CTRL_C)

    def stop_at_once(self, why: str = "stopped at once") -> NoReturn:
        """Raises `StoppedBySignal` where nothing can be saved."""
        raise self.stopped(f"{why}; {self.advice}")

    def _raise_once(self) -> None:
        if not self._raised:
            self.stop_at_once()


_active: StopSignals | None = None


def _in_forked_process() -> None:
    # Schedulers signal a data loader's processes, too, and the death of one would be the training's. They end
    # with it all the same: by a message, or when they see that it is gone. torch sets a handler of its own
    # there, which a blocked signal does not reach.
    if _active is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_STATUS)
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_in_forked_process)


def active() -> StopSignals | None:
    """The handler that `stop_on_signals` has put in place, None outside of it."""
    return _active


@contextmanager
def stop_on_signals() -> Iterator[StopSignals]:
    """Inside, signals end a training with a checkpoint, see the top; no effect but in a main thread.

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
            logger.info("To go on: %s", _active.resume_command)
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


def stop_while_waiting(trainer: object, seconds: float) -> None:
    """Ends a training whose batch does not come where a signal asks for it: no iteration would end.

    Args:
        seconds: of waiting so far.

    Raises:
        StoppedBySignal: one has been received. A single process has saved a checkpoint of the iteration
            before; several cannot without each other.
    """
    if _active is None or _active.received is None or seconds < SECONDS_FOR_A_BATCH:
        return
    if comm.get_world_size() == 1 and trainer.iter > trainer.start_iter:
        trainer.storage.iter = trainer.iter - 1
        trainer.stop_with_checkpoint(_active)
    _active.stop_at_once("stopped while waiting for a batch")


@contextmanager
def evaluating(trainer: object) -> Iterator[None]:
    """Around an evaluation in a training: a signal that is already there stops before it, others at once.

    What was trained since the last checkpoint is saved in both cases. Every process of the training enters
    it.
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
        # A RuntimeError: another process, of which a message was expected, has been stopped and is gone.
        if not _active.stop_announced():
            raise
        _active.save_alone(save)
        raise _active.stopped(
            f"stopped at once, in an evaluation; --resume goes on after iteration {trainer.storage.iter}"
        ) from None


@contextmanager
def forward_signals(process_ids: list[int]) -> Iterator[StopSignals]:
    """Inside, signals that this process receives go to its children; a repeated one ends this process too.

    Args:
        process_ids: of the children; more of them may be added inside, by `add_children`.
    """
    received = StopSignals()

    def pass_on(number: int, frame: object) -> None:
        _send(number, process_ids)
        with received.at_iteration_end():
            received.handle(number)

    with _handler(pass_on, children=process_ids):
        yield received


def _send(number: int, process_ids: Sequence[int]) -> None:
    for process_id in process_ids:
        with suppress(ProcessLookupError):
            os.kill(process_id, number)


def add_children(process_ids: list[int], new: Sequence[int], signals: StopSignals) -> None:
    """Adds children inside `forward_signals`; a signal that came while they were started goes to them now."""
    process_ids += new
    if signals.received is not None:
        _send(signals.received, new)


def unblock_signals() -> None:
    """In a process that was started `out_of_reach`: from here on Ctrl-C ends it, without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_STATUS)


@contextmanager
def _handler(
    function: Callable[[int, object], None],
    acknowledge: Callable[[int], None] = lambda number: None,
    children: Sequence[int] = (),
    ignores_repeat: Callable[[int], bool] = lambda number: False,
) -> Iterator[None]:
    """Inside, `function` handles signals; a repeated one ends this process and its children.

    Args:
        acknowledge: called in another thread as soon as a signal arrives for the first time.
        ignores_repeat: asked there whether a repeated one ends nothing just now.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python has handlers in the main thread only.
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watch = threading.Thread(target=_watch, args=(reader, acknowledge, children, ignores_repeat), daemon=True)
    watch.start()
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # Whoever starts a job by nohup wants it to go on.
    ignored = {number for number in (signal.SIGHUP,) if signal.getsignal(number) == signal.SIG_IGN}
    before = {number: signal.signal(number, function) for number in EXIT_STATUS.keys() - ignored}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(wakeup)
        # Processes that were forked meanwhile keep the pipe open: there is no end of file to wait for.
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
    """Sees each signal when it arrives; Python's handler waits for what the main thread computes."""
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
                # Not `signal.signal`, which the main thread alone may call.
                ctypes.pythonapi.PyOS_setsig(number, None)
                os.kill(os.getpid(), number)


def _wait_until(happened: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not happened() and time.monotonic() < until:
        time.sleep(0.05)


def _stronger(one: int | None, other: int | None) -> int | None:
    """The signal that counts more: a job that is cancelled after its time was up shall not go on."""
    by_strength = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
    return next((number for number in by_strength if number in (one, other)), None)
