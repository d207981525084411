"""Output of a long training: progress lines, TensorBoard, warnings, records without gaps or duplicates."""

import json
import logging
import re

import pytest
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segzoo.engine.metrics_log import LossRecorder, TensorBoardWriter
from segzoo.engine.progress import DataWaitWarning, recent_times
from tests.engine.toy_training import ToyTrainer, metrics, run_toy, toy_cfg

LINE = re.compile(
    r"eta: (?P<eta>\d+:\d\d:\d\d)  iter: (?P<iteration>\d+)/(?P<max_iter>\d+)  .*"
    r"time: (?P<time>[\d.]+)  data_time: (?P<data>[\d.]+)(?: \(data-bound\))?  "
    r"compute_time: (?P<compute>[\d.]+)  img/s: (?P<speed>[\d.]+)  lr: [\d.e-]+  max_mem: (?P<memory>\d+)M"
)


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def test_the_line_metrics_json_and_tensorboard_agree(tmp_path):
    run_toy(toy_cfg(tmp_path, SOLVER__MAX_ITER=30, SOLVER__LOG_PERIOD=10))
    log = (tmp_path / "log.txt").read_text()
    lines = [match.groupdict() for match in LINE.finditer(log)]
    assert [(line["iteration"], line["max_iter"]) for line in lines] == [
        ("9", "30"),
        ("19", "30"),
        ("29", "30"),
    ]
    records = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    for line, record in zip(lines, records, strict=True):
        seconds = float(line["time"])
        # Each is rounded to four digits.
        assert float(line["data"]) + float(line["compute"]) == pytest.approx(seconds, abs=1.6e-4)
        assert float(line["compute"]) == pytest.approx(record["compute_time"], abs=6e-5)
        exact = 4 / record["images_per_second"]  # four images an iteration
        assert seconds == pytest.approx(exact, abs=6e-5)
        assert float(line["speed"]) == pytest.approx(record["images_per_second"], abs=0.06)
        assert int(line["memory"]) == pytest.approx(record["max_mem"], abs=1)
    assert records[-1]["eta_seconds"] == 0 < records[0]["eta_seconds"]
    shown = events(tmp_path)
    assert set(shown.Tags()["scalars"]) == records[-1].keys() - {"iteration"}
    for name in ("compute_time", "data_time", "eta_seconds", "images_per_second", "max_mem", "time", "lr"):
        found = [(event.step, event.value) for event in shown.Scalars(name)]
        expected = [(line["iteration"], pytest.approx(line[name], rel=1e-6)) for line in records]
        assert found == expected, name


def test_tensorboard_has_the_learning_rate_of_every_multiplier(tmp_path):
    run_toy(toy_cfg(tmp_path, SOLVER__LR_MULTIPLIERS=[["backbone", 0.1]], SOLVER__LOG_PERIOD=2))
    shown = events(tmp_path)
    for name, multiplier in (("lr_x1", 1.0), ("lr_x0.1", 0.1)):
        found = [(event.step, event.value) for event in shown.Scalars(name)]
        rates = {step: multiplier * 0.01 * (1 - step / 10) ** 0.9 for step in range(1, 10, 2)}
        assert found == [(step, pytest.approx(rate, rel=1e-5)) for step, rate in rates.items()]


def test_events_are_on_disk_as_soon_as_they_are_written(tmp_path):
    with EventStorage(0) as storage:
        writer = TensorBoardWriter(str(tmp_path))
        for step in range(3):
            storage.iter = step
            storage.put_scalar("total_loss", step)
            writer.write()
            assert [event.step for event in events(tmp_path).Scalars("total_loss")] == list(range(step + 1))
        writer.close()


@pytest.mark.parametrize(
    ("shares", "warnings"),
    [
        ([0.1, 0.1, 0.2], []),
        ([0.1, 0.63, 0.7, 0.9], [63]),
        # Not repeated between the two bounds; reset below the lower one.
        ([0.5, 0.2, 0.5, 0.2, 0.5], [50]),
        ([0.5, 0.1, 0.4, 0.1, 0.31, 0.3], [50, 40, 31]),
    ],
)
def test_waiting_for_data_is_warned_about_once(shares, warnings, caplog, monkeypatch):
    monkeypatch.setattr("segzoo.utils.threads._bound_processors", lambda: 16)
    monkeypatch.setattr("segzoo.utils.threads._cgroup_shares", lambda: [])
    warning = DataWaitWarning(workers=2)
    with EventStorage(0) as storage, caplog.at_level(logging.WARNING):
        warning.check(storage)  # nothing is known yet
        for share in shares:
            for _ in range(20):
                storage.put_scalars(time=0.5, data_time=0.5 * share)
            warning.check(storage)
    assert [record.getMessage() for record in caplog.records] == [
        f"Data loading takes {percent} % of each iteration: raise DATALOADER.NUM_WORKERS (now 2; "
        "16 processors here)"
        for percent in warnings
    ]


def test_the_wait_for_starting_workers_is_no_reason_to_warn(caplog):
    """Neither at first nor after a resume, which continues with the earlier values."""
    with EventStorage(0) as storage, caplog.at_level(logging.WARNING):
        for start in (0, 30):
            for iteration in range(start, start + 30):
                storage.iter = iteration
                storage.put_scalars(data_time=60.0 if iteration == start else 0.01)
                if iteration >= start + 2:  # as Detectron2's timer
                    storage.put_scalars(time=0.5)
                    assert recent_times(storage) == pytest.approx((0.5, 0.01))
                DataWaitWarning(workers=2).check(storage)
    assert not caplog.records


def test_the_wait_is_measured_over_the_timed_iterations():
    with EventStorage(0) as storage:
        for iteration in range(100):
            storage.iter = iteration
            storage.put_scalars(time=1.0 + iteration, data_time=0.5 * iteration)
    assert recent_times(storage) == pytest.approx((90.5, 44.75))  # 80 to 99


@pytest.mark.parametrize("with_loss", [0, 1])
def test_a_loss_that_one_process_lacks_is_zero_there(monkeypatch, with_loss):
    mine, other = ({"loss_all": 1.0}, {"loss_all": 4.0})
    (mine, other)[with_loss]["loss_some"] = 5.0

    def gather(pending):
        return [pending, [{"iteration": 0, "data_time": 0.5, **other}]]

    monkeypatch.setattr("segzoo.engine.metrics_log.comm.gather", gather)
    with EventStorage(0) as storage:
        LossRecorder(storage, period=1).add(0, mine, data_time=0.25)
        latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest == {"loss_all": 2.5, "loss_some": 2.5, "total_loss": 5.0, "data_time": 0.5}


def test_an_evaluation_of_several_processes_between_two_lines_has_the_losses(tmp_path, monkeypatch):
    """Processes exchange losses every LOG_PERIOD iterations; an evaluation's line comes in between."""
    changes = {"DATASETS__TEST": ("toy_val",), "TEST__EVAL_PERIOD": 5, "SOLVER__CHECKPOINT_PERIOD": 0}
    trainer = type("Scored", (ToyTrainer,), {"scores": iter([10.0, 20.0])})
    monkeypatch.setattr(LossRecorder, "__init__", exchanging(LossRecorder.__init__))
    run_toy(toy_cfg(tmp_path, SOLVER__LOG_PERIOD=8, **changes), trainer_class=trainer)
    lines = metrics(tmp_path)
    assert [line["iteration"] for line in lines] == [4, 7, 9]
    assert all("total_loss" in line for line in lines)


def exchanging(init):
    def initialize(self, storage, period):
        init(self, storage, period)
        self._period = period  # as with several processes

    return initialize


class Killed(BaseException):
    pass


def killed_after(checkpoint, scores=()):
    """Return a trainer that ends when a checkpoint is saved, writing nothing more, as after kill -9."""

    class KilledTrainer(ToyTrainer):
        def save_checkpoint(self, name):
            super().save_checkpoint(name)
            if name == checkpoint:
                raise Killed

        def after_train(self):
            """As little as a killed process does."""

    KilledTrainer.scores = iter(scores)
    return KilledTrainer


@pytest.mark.parametrize("evaluated", [False, True])
@pytest.mark.parametrize(
    ("checkpoint", "start"), [("model_0000003", 4), ("model_0000007", 8), ("model_final", 10)]
)
@pytest.mark.parametrize("period", [1, 2, 3])
def test_records_have_no_gap_where_a_run_was_killed_after_a_checkpoint(
    tmp_path, period, checkpoint, start, evaluated
):
    changes = {"SOLVER__LOG_PERIOD": period}
    if evaluated:
        changes |= {"DATASETS__TEST": ("toy_val",), "TEST__EVAL_PERIOD": 4}
    scores = [10.0, 20.0, 30.0]
    run_toy(toy_cfg(tmp_path / "whole", **changes), trainer_class=killed_after(None, scores))
    with pytest.raises(Killed):
        run_toy(toy_cfg(tmp_path / "cut", **changes), trainer_class=killed_after(checkpoint, scores))
    left = scores[start // 4 - 1 :] if start < 10 else scores[2:]
    resumed = run_toy(
        toy_cfg(tmp_path / "cut", **changes), True, type("T", (ToyTrainer,), {"scores": iter(left)})
    )
    assert resumed.start_iter == start
    expected = metrics(tmp_path / "whole")
    assert metrics(tmp_path / "cut") == expected
    found, whole = (events(tmp_path / name) for name in ("cut", "whole"))
    assert set(found.Tags()["scalars"]) == set(whole.Tags()["scalars"])
    for name in ("total_loss", "lr", *(["sem_seg/mIoU"] if evaluated else [])):
        steps = [line["iteration"] for line in expected if name in line]
        assert [event.step for event in found.Scalars(name)] == steps
        assert [event.value for event in found.Scalars(name)] == [
            event.value for event in whole.Scalars(name)
        ]


@pytest.mark.parametrize("period", [1, 3])
def test_a_line_without_its_evaluation_is_replaced(tmp_path, period):
    changes = {"SOLVER__LOG_PERIOD": period, "DATASETS__TEST": ("toy_val",), "TEST__EVAL_PERIOD": 4}

    def failing():
        yield 10.0
        raise Killed

    run_toy(toy_cfg(tmp_path / "whole", **changes), trainer_class=killed_after(None, [10.0, 20.0, 30.0]))
    # Unlike a killed one it writes its last scalars, and so a line of iteration 7.
    broken = type("Broken", (ToyTrainer,), {"scores": failing()})
    with pytest.raises(Killed):
        run_toy(toy_cfg(tmp_path / "cut", **changes), trainer_class=broken)
    assert metrics(tmp_path / "cut")[-1]["iteration"] == 7
    resumed = type("Resumed", (ToyTrainer,), {"scores": iter([20.0, 30.0])})
    run_toy(toy_cfg(tmp_path / "cut", **changes), True, resumed)
    expected = metrics(tmp_path / "whole")
    assert metrics(tmp_path / "cut") == expected
    for name in ("total_loss", "sem_seg/mIoU"):
        steps = [line["iteration"] for line in expected if name in line]
        assert [event.step for event in events(tmp_path / "cut").Scalars(name)] == steps


def test_an_event_whose_line_was_removed_before_a_kill_is_purged(tmp_path):
    """A stopped run writes an extra line; the next run is killed after it has cleaned metrics.json."""

    class Stopped(ToyTrainer):
        def after_step(self):
            super().after_step()
            if self.iter == 4:
                self.save_checkpoint("model_0000004")
                raise Killed  # writes its last scalars

    class KilledAtOnce(ToyTrainer):
        def build_writers(self):
            raise Killed

        def after_train(self):
            """As little as a killed process does."""

    changes = {"SOLVER__LOG_PERIOD": 2}
    for trainer, resume in ((Stopped, False), (KilledAtOnce, True)):
        with pytest.raises(Killed):
            run_toy(toy_cfg(tmp_path / "cut", **changes), resume, trainer)
    run_toy(toy_cfg(tmp_path / "cut", **changes), resume=True)
    run_toy(toy_cfg(tmp_path / "whole", **changes))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    for name in ("total_loss", "lr"):
        found, whole = (events(tmp_path / folder).Scalars(name) for folder in ("cut", "whole"))
        assert [event.step for event in found] == [event.step for event in whole]
