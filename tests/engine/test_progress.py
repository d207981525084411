"""Progress lines and last lines of a training; what it does when its folder is removed."""

import itertools
import json
import logging
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from segzoo.cli.commands import COMMANDS
from segzoo.cli.main import load
from segzoo.engine import hooks
from segzoo.engine.best import Best, read_best
from segzoo.engine.hooks import EvaluationHook
from segzoo.engine.metrics_log import LossRecorder
from segzoo.engine.progress import ProgressPrinter
from segzoo.modeling import Segmentor
from segzoo.utils.logging import _ScreenFormatter, fitted
from segzoo.utils.loss_names import loss_terms
from tests.engine.toy_training import ToyTrainer, metrics, run_toy, toy_cfg

REPOSITORY = Path(__file__).resolve().parents[2]
LAYERS = [f"loss_{kind}{layer}" for kind in ("ce", "dice") for layer in ("", "_0", "_1", "_2")]


def test_terms_show_the_number_of_their_layers():
    names = [
        "lr",
        "loss_ce",
        "total_loss",
        "loss_dice",
        "loss_ce_0",
        "val/loss_x",
        "loss_dice_0",
        "loss_ce_1",
    ]
    assert loss_terms([*names, "loss_aux"]) == {
        "loss_ce (3 layers)": ["loss_ce", "loss_ce_0", "loss_ce_1"],
        "loss_dice (2 layers)": ["loss_dice", "loss_dice_0"],
        "loss_aux": ["loss_aux"],
    }


@pytest.mark.parametrize("iterations", [1, 7, 50])
def test_the_terms_of_a_line_add_up_to_the_total(caplog, iterations):
    generator = torch.Generator().manual_seed(iterations)
    totals = []
    with EventStorage(0) as storage, caplog.at_level(logging.INFO):
        recorder = LossRecorder(storage, period=20)
        for iteration in range(iterations):
            storage.iter = iteration
            losses = {name: 10 * torch.rand((), generator=generator).item() for name in LAYERS}
            if iteration % 3 == 0:  # missing in some batches
                losses["loss_rare"] = 5.0
            totals.append(sum(losses.values()))
            recorder.add(iteration, losses, data_time=0.0)
        ProgressPrinter(100).write()
    (line,) = (record.getMessage() for record in caplog.records)
    found = {name: float(value) for name, value in re.findall(r"(\w*loss[\w ()]*): ([\d.]+)", line)}
    total = found.pop("total_loss")
    assert found.keys() == {"loss_ce (4 layers)", "loss_dice (4 layers)", "loss_rare"}
    expected = sum(totals[-20:]) / len(totals[-20:])
    assert total == pytest.approx(expected, rel=1e-3)
    # Each is rounded to four digits.
    assert sum(found.values()) == pytest.approx(total, rel=2e-3)


FIELDS = (
    "eta: 0:01:24",
    "iter: 19/400",
    "total_loss: 3.003",
    "loss_ce (10 layers): 2.124",
    "loss_dice (10 layers): 0.8789",
    "time: 0.4323",
    "data_time: 0.2412 (data-bound)",
    "compute_time: 0.1911",
    "img/s: 18.4",
    "lr: 0.0019973",
    "max_mem: 781M",
)


@pytest.mark.parametrize("width", [30, 40, 63, 80, 100, 132, 500])
def test_a_line_fits_its_terminal(width):
    lines = fitted(FIELDS, width)
    assert all(len(line) <= width for line in lines)
    shown = "  ".join(lines).split("  ")
    assert [field for field in FIELDS if field in shown] == shown
    # Kept at any width.
    assert {field for field in FIELDS if "loss" in field or "iter" in field or "bound" in field} <= set(shown)
    if width == 500:
        assert shown == list(FIELDS)


@pytest.mark.parametrize("terminal", [True, False])
def test_only_terminals_get_shorter_lines(monkeypatch, terminal):
    monkeypatch.setenv("COLUMNS", "80")
    record = logging.LogRecord("segzoo", logging.INFO, "", 0, "%s", ("  ".join(FIELDS),), None)
    record.fields = FIELDS
    text = re.sub(r"\x1b\[\d+m", "", _ScreenFormatter(terminal).format(record))
    if terminal:
        assert all(len(line) <= 80 for line in text.splitlines())
        assert text.splitlines()[1].startswith(" " * len("[01/01 00:00:00] "))
    else:
        assert text.endswith(f"] {'  '.join(FIELDS)}")


@pytest.mark.parametrize(
    ("seconds", "first"),
    [(30.0, 0), (3.0, 2), (0.7, 11), (0.4, None), (0.001, None)],  # None: the regular line comes in time
)
def test_a_line_appears_within_ten_seconds_of_the_first_iteration(tmp_path, monkeypatch, seconds, first):
    clock = itertools.count(1000.0, seconds)

    class Slow(ToyTrainer):
        now = 1000.0

        def run_step(self):
            super().run_step()
            Slow.now = next(clock) + seconds

    monkeypatch.setattr(hooks, "time", SimpleNamespace(monotonic=lambda: Slow.now))
    run_toy(toy_cfg(tmp_path, SOLVER__MAX_ITER=25, SOLVER__LOG_PERIOD=20), trainer_class=Slow)
    log = (tmp_path / "log.txt").read_text()
    shown = [int(found) for found in re.findall(r"iter: (\d+)/25", log)]
    assert shown == [*([] if first is None else [first]), 19, 24]
    assert (shown[0] * seconds) <= 10
    # The records are unchanged.
    assert [line["iteration"] for line in metrics(tmp_path)] == [19, 24]


def scored(folder, scores, resume=False, trainer_class=ToyTrainer, **changes):
    cfg = toy_cfg(
        folder,
        DATASETS__TEST=("toy_val",),
        TEST__EVAL_PERIOD=2,
        TEST__BEST_METRIC="sem_seg/mIoU",
        **changes,
    )
    return run_toy(cfg, resume, type("Scored", (trainer_class,), {"scores": iter(scores)}))


def best_of(folder):
    """Return the iteration of the best model, and its score in best.json."""
    document = json.loads((folder / "best.json").read_text())
    assert document["scores"]["sem_seg/mIoU"] == document["value"]
    assert (document["metric"], document["checkpoint"]) == ("sem_seg/mIoU", "model_best.pth")
    iteration = torch.load(folder / "model_best.pth", weights_only=True)["iteration"]
    assert document["iteration"] == iteration
    return iteration, document["value"]


class Died(BaseException):
    pass


class Dying(ToyTrainer):
    def after_step(self):
        super().after_step()
        if self.iter == 6:
            raise Died


@pytest.mark.parametrize(
    "lost", [(), ("metrics.json",), ("metrics.json", "best.json"), ("model_0000003.pth",)]
)
def test_the_best_score_survives_the_run(tmp_path, lost):
    with pytest.raises(Died):
        scored(tmp_path, [10.0, 20.0, 72.3], trainer_class=Dying)
    assert best_of(tmp_path) == (5, 72.3)
    for name in lost:
        (tmp_path / name).unlink()
    # The run resumes from iteration 3 (or from the best one, the only one left).
    again = [11.1, 30.0, 40.0] if "model_0000003.pth" not in lost else [30.0, 40.0]
    # Without records the evaluation after the checkpoint counts as missing.
    again = [20.0, *again] if "metrics.json" in lost else again
    scored(tmp_path, again, resume=True)
    assert best_of(tmp_path) == (5, 72.3)
    assert (tmp_path / "log.txt").read_text().count("is the best so far") == 3
    scored(tmp_path, [80.0, 90.0], resume=True, SOLVER__MAX_ITER=14, SOLVER__CHECKPOINT_PERIOD=100)
    assert best_of(tmp_path) == (13, 90.0)


def test_the_last_lines_give_the_result_and_the_next_commands(tmp_path, capsys, monkeypatch):
    scored(tmp_path, [10.0, 30.0, 20.0, 25.0, 28.0])
    said = capsys.readouterr().out
    assert "Finished after 10 iterations; best sem_seg/mIoU 30.0000, at iteration 3" in said
    assert f"Files in {tmp_path}: model_final.pth, model_best.pth, best.json, metrics.json" in said
    (command,) = re.findall(r"To evaluate: (.*)", said)
    assert command == f"segzoo evaluate --weights {tmp_path}/model_best.pth"
    # Each is a complete command line, with words in capitals for the user to fill in.
    commands = dict(re.findall(r"To (\w+): segzoo (.*)", said))
    assert set(commands) == {"evaluate", "draw", "export"}
    for name, *words in (line for line in map(shlex.split, commands.values()) if line[0] in COMMANDS):
        words = [{"HEIGHT": "64", "WIDTH": "96"}.get(word, word) for word in words]
        arguments = load(name).build_parser().parse_args(words)
        assert f"{tmp_path}/model_best.pth" in (arguments.weights, *arguments.opts)
    # A script suggests scripts, with paths valid in the current folder.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(REPOSITORY / "tools" / "train_net.py")])
    scored(tmp_path / "other", [10.0] * 5)
    (tool,) = re.findall(r"To evaluate: \S+ (.*) --eval-only", capsys.readouterr().out)
    assert Path(tool).is_file()


def test_no_export_is_offered_of_a_model_that_it_refuses(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Segmentor, "fixed_shapes", False)
    scored(tmp_path, [10.0] * 5)
    assert set(re.findall(r"To (\w+): ", capsys.readouterr().out)) == {"evaluate", "draw"}


def test_a_trainer_without_metrics_gets_no_warning_about_a_removed_folder(tmp_path):
    class Silent(ToyTrainer):
        def build_writers(self):
            return [ProgressPrinter(self.max_iter)]

    run_toy(toy_cfg(tmp_path), trainer_class=Silent)
    assert "was removed" not in (tmp_path / "log.txt").read_text()
    assert not (tmp_path / "metrics.json").exists()


def test_the_best_score_is_read_without_the_weights_and_by_one_process(tmp_path, monkeypatch):
    scored(tmp_path, [10.0, 30.0, 20.0, 25.0, 28.0])

    def whole(*_):
        raise AssertionError("read whole")

    monkeypatch.setattr("segzoo.checkpoint.reader._parse", whole)
    assert read_best(tmp_path, "sem_seg/mIoU") == ("sem_seg/mIoU", 30.0, 3)
    # A file of another process.
    hook = EvaluationHook(2, dict, "sem_seg/mIoU")
    hook.trainer = SimpleNamespace(past_metrics=[], cfg=toy_cfg(tmp_path), start_iter=0)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr("segzoo.engine.hooks.read_best", whole)
    monkeypatch.setattr(comm, "all_gather", lambda mine: [([], Best("sem_seg/mIoU", 30.0, 3)), mine])
    hook.before_train()
    assert hook.best == ("sem_seg/mIoU", 30.0, 3)


@pytest.mark.parametrize("what", ["all", "records"])
def test_a_training_survives_the_removal_of_its_folder(tmp_path, what, caplog):
    folder = tmp_path / "out"

    class Removed(ToyTrainer):
        def before_step(self):
            super().before_step()
            if self.iter == 5:
                if what == "all":
                    shutil.rmtree(folder)
                else:
                    (folder / "metrics.json").unlink()

    run_toy(toy_cfg(folder), trainer_class=Removed)
    assert [line["iteration"] for line in metrics(folder)] == list(range(5, 10))
    assert {"model_0000007.pth", "model_final.pth", "last_checkpoint", "config.yaml"} <= {
        path.name for path in folder.iterdir()
    }
    log = (folder / "log.txt").read_text()
    assert log.count(f"OUTPUT_DIR {folder} was removed during the training and is created again") == 1
    assert "Finished after 10 iterations" in log
    assert any(folder.glob("events.*"))
