"""Batches that data-loader workers cannot hand over end a job in one line, not in waiting forever."""

import ctypes
import errno
import multiprocessing
import os
import pickle
import re
import resource
import signal
import subprocess
import time
import types
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.pin_memory import pin_memory

from segzoo.config.defaults import default_config
from segzoo.data import handover
from segzoo.data.build import copies_to_gpu
from segzoo.data.handover import SharedBatch, hand_over, limits, received_batches
from segzoo.data.workers import init_worker, job_signals_blocked
from segzoo.utils.errors import InputError

# Seconds between two checks: shorter than in training.
PAUSE = 0.4
_CLONE_NEWNS = 0x20000


class Images(Dataset):
    """Items are tensors; some are not made as expected."""

    def __init__(self, size=10, odd=None, what=None):
        self.size, self.odd, self.what = size, odd, what

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index == self.odd:
            self.what()
        return {"image": torch.full((3, 5, 7), index, dtype=torch.uint8), "name": f"{index}.png"}


def loader(dataset, workers=1, batch_size=2):
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=hand_over,
        timeout=PAUSE if workers else 0,
        worker_init_fn=init_worker,
    )


def indices(batches):
    return [int(item["image"].unique()) for batch in batches for item in batch]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_arrive_complete_and_in_order(workers):
    batches = list(received_batches(loader(Images(), workers), while_waiting=lambda seconds: None))
    assert indices(batches) == list(range(10))
    assert [item["name"] for item in batches[1]] == ["2.png", "3.png"]


def test_the_loader_waits_for_a_slow_batch():
    seen = []
    slow = Images(4, 2, lambda: time.sleep(2.5 * PAUSE))
    assert indices(received_batches(loader(slow), seen.append)) == [0, 1, 2, 3]
    assert len(seen) >= 2
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (
            RuntimeError("unable to allocate shared memory(shm) for file </t>: No space left on device (28)"),
            "shm",
        ),
        (RuntimeError("unable to mmap 8 bytes from file </torch_1>: Cannot allocate memory (12)"), "memory"),
        (OSError(24, "Too many open files"), "files"),
        (OSError(23, "Too many open files in system"), "all files"),
        (RuntimeError("received 0 items of ancdata"), "files"),
    ],
)
def test_what_a_worker_cannot_hand_over_ends_in_one_line(monkeypatch, error, what):
    def fail(batch):
        raise error

    # Not the class itself, which the message about the failure needs, too.
    monkeypatch.setattr(handover, "ForkingPickler", SimpleNamespace(dumps=fail))
    (failure,) = next(received_batches(loader(Images()), lambda seconds: None))
    expected = {
        "shm": r"no shared memory left \(/dev/shm: .* MiB free, ulimit -n: \d+\); increase the size ",
        "memory": r"no memory left \(/dev/shm: .*, ulimit -n: \d+\); lower ",
        "all files": r"too many open files on the whole machine \(/proc/sys/fs/file-nr\); end other ",
        "files": r"too many open files \(/dev/shm: .*, ulimit -n: \d+\); raise the limit \(ulimit -n ",
    }
    assert re.match(rf"a data-loader worker cannot hand over a batch: {expected[what]}", failure.message)
    assert "lower DATALOADER.NUM_WORKERS (now 1; 0 needs none)" in failure.message


def test_a_process_that_cannot_be_forked_for_lack_of_memory_is_one_line(monkeypatch):
    def fail():
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "fork", fail)
    batches = received_batches(loader(Images()), lambda seconds: None)
    with pytest.raises(InputError, match=r"cannot be started: Cannot allocate memory .*; lower DATA"):
        next(batches)


def test_a_worker_that_waited_for_a_disk_may_compute_afterwards(monkeypatch):
    now, stat = [0.0], ["D", 5000]
    monkeypatch.setattr(handover, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(
        handover.Path, "read_text", lambda *_, **__: f"1 (py) {stat[0]} {'0 ' * 10}{stat[1]} 0 0"
    )
    monitor = handover._IdleMonitor([1])
    for state, ticks in (("D", 0), ("R", 2 * os.sysconf("SC_CLK_TCK"))):
        stat[0] = state
        for _ in range(200):
            now[0] += 2
            stat[1] += ticks
            assert monitor.idle_for() == 0
    now[0] += 2
    assert monitor.idle_for() == 2  # and does nothing since


def test_other_errors_of_a_worker_are_unchanged():
    def fail():
        raise RuntimeError("No space left on device")  # of a dataset, which has a traceback

    with pytest.raises(RuntimeError, match="Caught RuntimeError in DataLoader worker"):
        list(received_batches(loader(Images(4, 0, fail)), lambda seconds: None))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            signal.SIGKILL,
            r"a data-loader worker was killed \(SIGKILL\), which the system does when memory runs",
        ),
        (signal.SIGSEGV, "a data-loader worker was ended"),
    ],
)
def test_a_worker_that_ended_is_explained(number, message):
    with pytest.raises(InputError, match=message):
        list(
            received_batches(loader(Images(8, 4, lambda: os.kill(os.getpid(), number))), lambda seconds: None)
        )


@pytest.mark.parametrize(
    ("code", "message"), [(-9, r"was killed \(SIGKILL\)"), (-11, "was ended by Seg"), (3, "has ended \\(")]
)
def test_the_signal_is_named_if_torch_sees_the_end_first(code, message):
    """Its own words are then the same for every end; which of two places sees it is chance."""
    processes = [types.SimpleNamespace(pid=4, exitcode=None), types.SimpleNamespace(pid=5, exitcode=code)]
    with (
        pytest.raises(InputError, match=f"a data-loader worker {message}"),
        handover._report_transfer_errors(2, processes),
    ):
        raise RuntimeError("DataLoader worker (pid(s) 5) exited unexpectedly")


def test_hanging_workers_end_in_an_error(monkeypatch):
    monkeypatch.setattr(handover, "IDLE_LIMIT", PAUSE)
    with pytest.raises(
        InputError, match=r"no batch for .* minutes, during which the 1 data-loader workers were idle"
    ):
        list(received_batches(loader(Images(4, 2, lambda: time.sleep(60))), lambda seconds: None))


def compute_for(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_the_loader_waits_for_workers_that_compute(monkeypatch):
    monkeypatch.setattr(handover, "IDLE_LIMIT", 2.0)
    busy = Images(4, 2, lambda: compute_for(3.0))
    assert indices(received_batches(loader(busy), lambda seconds: None)) == [0, 1, 2, 3]


def test_the_limits_are_those_of_this_process():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    found = re.fullmatch(r"/dev/shm: ([\d.]+) of ([\d.]+) MiB free, ulimit -n: (\d+)", limits())
    assert int(found[3]) == limit
    assert 0 <= float(found[1]) <= float(found[2])


def with_small_shared_memory(queue) -> None:
    """In a process of its own, which sees a /dev/shm of one MiB: a batch that is larger."""
    refused = ctypes.CDLL(None).unshare(_CLONE_NEWNS)
    for mount in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", "size=1m", "none", "/dev/shm"]):
        refused = refused or subprocess.run(["mount", *mount], capture_output=True).returncode
    if refused:
        queue.put("refused")
        return
    large = DataLoader([torch.zeros(1 << 21)] * 2, num_workers=1, collate_fn=hand_over, timeout=PAUSE)
    queue.put(next(received_batches(large, lambda seconds: None))[0].message)


def test_a_real_small_shared_memory_ends_a_loader_in_one_line():
    context = multiprocessing.get_context("fork")
    # Its locks are made here, where there is room.
    queue = context.Queue()
    process = context.Process(target=with_small_shared_memory, args=(queue,))
    process.start()
    said = queue.get(timeout=60)
    process.join(30)
    process.kill()  # what it has said is what counts
    if said == "refused":
        pytest.skip("a small /dev/shm cannot be mounted here")
    assert "no shared memory left (/dev/shm: " in said
    assert " of 1.0 MiB free" in said


def test_the_message_of_a_shared_batch_is_small():
    """The pixels are in shared memory, not in the message."""
    shared = next(iter(loader([{"image": torch.zeros((3, 64, 64), dtype=torch.uint8)}] * 2)))
    assert isinstance(shared, SharedBatch)
    assert len(shared.content) < 2000


def test_no_signal_to_the_whole_job_reaches_a_worker():
    batches = received_batches(
        DataLoader(
            Images(6),
            num_workers=1,
            collate_fn=hand_over,
            timeout=PAUSE,
            multiprocessing_context="fork",
            prefetch_factor=1,
        ),
        lambda seconds: None,
    )
    (first,) = next(batches)
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        os.kill(worker.pid, number)
    assert indices([[first], *batches]) == list(range(6))


def test_a_process_that_is_not_forked_blocks_job_signals_from_the_start():
    """The loader above, where it spawns its workers: these import for seconds before they do anything."""
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0.1,))
    with job_signals_blocked():
        process.start()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP):
        os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 0


def test_a_worker_that_hangs_does_not_outlive_the_error():
    class Stop(BaseException):
        pass

    def stop(seconds):
        raise Stop

    with pytest.raises(Stop):
        list(received_batches(loader(Images(4, 0, lambda: time.sleep(60))), stop))
    until = time.monotonic() + 10
    while multiprocessing.active_children():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_pinning_opens_a_batch_and_pins_its_tensors(monkeypatch):
    """torch's thread calls `pin_memory`; without a GPU nothing can be page-locked, so it is simulated."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: pinned.append(tensor) or tensor)
    batch = [{"image": torch.ones(3, 2, 2), "file_name": "a.png", "image_id": 7}, {"map": torch.zeros(2)}]
    opened = SharedBatch(pickle.dumps(batch)).pin_memory()
    assert [sorted(one) for one in opened] == [sorted(one) for one in batch]
    assert (opened[0]["file_name"], opened[0]["image_id"]) == ("a.png", 7)
    assert [tuple(tensor.shape) for tensor in pinned] == [(3, 2, 2), (2,)]
    # The loader calls it: a batch is no tuple, whose parts torch would pin instead.
    assert isinstance(pin_memory(SharedBatch(pickle.dumps(batch))), list)


def test_a_batch_that_cannot_be_opened_is_left_to_the_main_thread():
    gone = SharedBatch(pickle.dumps([1])[:-1])
    assert gone.pin_memory() is gone


@pytest.mark.parametrize(("device", "expected"), [("cuda", True), ("cuda:1", True), ("cpu", False)])
def test_batches_for_a_gpu_are_pinned(monkeypatch, device, expected):
    cfg = default_config()
    cfg.MODEL.DEVICE = device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert copies_to_gpu(cfg) == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not copies_to_gpu(cfg)
