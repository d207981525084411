"""A training as a whole: resuming, checkpoints, records, the best model, and what stops it."""

import itertools
import re

import pytest
import torch
from detectron2.engine import HookBase

from segzoo.engine import NonFiniteLossError
from segzoo.engine.distributed.data_parallel import sync_batch_norm_on_cpu
from segzoo.engine.rng_state import restore_random_state
from segzoo.utils.errors import InputError
from tests.engine.toy_training import (
    ToyPixelClassifier,
    ToyTrainer,
    assert_same_weights,
    metrics,
    run_toy,
    toy_cfg,
    weights,
)


class Interrupt(HookBase):
    """Hook that raises after iteration `at`, like a crash."""

    def __init__(self, at):
        self.at = at

    def after_step(self):
        if self.trainer.iter == self.at:
            raise KeyboardInterrupt


class InterruptedTrainer(ToyTrainer):
    at = 6

    def build_hooks(self):
        return [*super().build_hooks(), Interrupt(self.at)]


def test_training_lowers_the_loss_and_writes_the_usual_files(tmp_path):
    cfg = toy_cfg(tmp_path, SOLVER__MAX_ITER=60, SOLVER__LOG_PERIOD=10, SOLVER__CHECKPOINT_PERIOD=20)
    cfg.SOLVER.BASE_LR = 0.1
    run_toy(cfg)
    lines = metrics(tmp_path)
    assert [line["iteration"] for line in lines] == [9, 19, 29, 39, 49, 59]
    assert lines[-1]["total_loss"] < 0.5 * lines[0]["total_loss"]
    assert lines[-1]["total_loss"] == pytest.approx(lines[-1]["loss_ce"] + lines[-1]["loss_size"], rel=0.05)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.yaml", "log.txt", "last_checkpoint", "model_0000019.pth", "model_final.pth"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)


@pytest.mark.parametrize("change", [{}, {"SOLVER__ACCUMULATE": 2}, {"SOLVER__OPTIMIZER": "SGD"}])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path, change):
    change = {**change, "MODEL__MASK_FORMER__DROPOUT": 0.2, "SOLVER__LOG_PERIOD": 2}
    run_toy(toy_cfg(tmp_path / "whole", **change))
    with pytest.raises(KeyboardInterrupt):
        run_toy(toy_cfg(tmp_path / "cut", **change), trainer_class=InterruptedTrainer)
    resumed = run_toy(toy_cfg(tmp_path / "cut", **change), resume=True)
    assert resumed.start_iter == 4
    assert_same_weights(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_a_random_seed_is_resumed_too(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_toy(toy_cfg(tmp_path, SEED=-1), trainer_class=InterruptedTrainer)
    seed = int(re.search(r"^SEED: (\d+)$", (tmp_path / "config.yaml").read_text(), re.MULTILINE)[1])
    assert seed == run_toy(toy_cfg(tmp_path, SEED=-1), resume=True).cfg.SEED


def test_a_new_learning_rate_takes_effect_on_resuming(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_toy(toy_cfg(tmp_path), trainer_class=InterruptedTrainer)
    run_toy(toy_cfg(tmp_path, SOLVER__BASE_LR=0.02), resume=True)
    rates = {line["iteration"]: line["lr"] for line in metrics(tmp_path)}
    assert rates[3] == pytest.approx(0.01 * 0.7**0.9)
    assert rates[4] == pytest.approx(0.02 * 0.6**0.9)


def test_resuming_reports_when_there_is_nothing_to_resume_or_to_train(tmp_path):
    run_toy(toy_cfg(tmp_path), resume=True)
    run_toy(toy_cfg(tmp_path), resume=True)
    log = (tmp_path / "log.txt").read_text()
    assert f"--resume: no last_checkpoint in {tmp_path}; starting from" in log
    assert "Checkpoint already at MAX_ITER=10; nothing to train." in log
    assert len(metrics(tmp_path)) == 10


def test_a_new_run_in_the_same_folder_is_refused_where_there_are_checkpoints(tmp_path):
    run_toy(toy_cfg(tmp_path, SOLVER__MAX_ITER=3))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*model*")}
    with pytest.raises(InputError, match=r"OUTPUT_DIR .* holds the checkpoints of another training; resume"):
        run_toy(toy_cfg(tmp_path, SOLVER__MAX_ITER=2))
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*model*")} == before
    assert len(metrics(tmp_path)) == 3


def test_the_records_of_a_run_without_a_checkpoint_are_kept_aside(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_toy(toy_cfg(tmp_path), trainer_class=type("Early", (InterruptedTrainer,), {"at": 2}))
    run_toy(toy_cfg(tmp_path, SOLVER__MAX_ITER=2))
    assert len(metrics(tmp_path)) == 2
    assert len((tmp_path / "metrics_1.json").read_text().splitlines()) == 3


def test_the_last_checkpoints_and_the_final_one_are_kept(tmp_path):
    run_toy(toy_cfg(tmp_path, SOLVER__CHECKPOINT_PERIOD=2, SOLVER__CHECKPOINT_KEEP=2))
    names = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert names == ["model_0000005.pth", "model_0000007.pth", "model_final.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_checkpoints_describe_themselves(tmp_path):
    run_toy(toy_cfg(tmp_path, SOLVER__MAX_ITER=1))
    about = torch.load(tmp_path / "model_final.pth", weights_only=True)["segzoo"]
    assert about["classes"] == ["sky", "road", "tree", "car"]
    assert (about["task"], about["ignore_label"], about["image_format"]) == ("semantic", 255, "RGB")
    assert about["pixel_mean"] == pytest.approx([123.675, 116.28, 103.53])


def evaluated(tmp_path, scores, resume=False, trainer_class=ToyTrainer, **changes):
    cfg = toy_cfg(
        tmp_path,
        DATASETS__TEST=("toy_val",),
        TEST__EVAL_PERIOD=2,
        TEST__BEST_METRIC="sem_seg/mIoU",
        SOLVER__LOG_PERIOD=5,
        **changes,
    )
    chosen = type("Chosen", (trainer_class,), {"scores": iter(scores)})
    return run_toy(cfg, resume, chosen)


def test_the_best_checkpoint_is_that_of_the_best_metric(tmp_path):
    evaluated(tmp_path, [10.0, 30.0, 20.0, float("nan"), 25.0])
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 3
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    scores = {line["iteration"]: line["sem_seg/mIoU"] for line in metrics(tmp_path) if "sem_seg/mIoU" in line}
    assert list(scores) == [1, 3, 5, 7, 9]
    assert scores[9] == 25.0


def test_training_stops_when_the_metric_no_longer_improves(tmp_path):
    trainer = evaluated(tmp_path, [10.0, 30.0, 20.0, 25.0, 99.0], TEST__EARLY_STOP_PATIENCE=2)
    assert trainer.iter == 8
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 7
    assert "sem_seg/mIoU has not improved in 2 evaluations" in (tmp_path / "log.txt").read_text()


def test_an_unreported_metric_lists_the_reported_ones(tmp_path):
    with pytest.raises(
        InputError,
        match=r"TEST\.BEST_METRIC 'miou' is not reported; available: sem_seg/IoU-sky, sem_seg/mIoU",
    ):
        run_toy(
            toy_cfg(tmp_path, DATASETS__TEST=("toy_val",), TEST__BEST_METRIC="miou"),
            trainer_class=type("Scored", (ToyTrainer,), {"scores": itertools.repeat(1.0)}),
        )


def test_evaluating_does_not_change_the_training(tmp_path):
    run_toy(toy_cfg(tmp_path / "plain", MODEL__MASK_FORMER__DROPOUT=0.2))
    evaluated(tmp_path / "evaluated", itertools.repeat(1.0), MODEL__MASK_FORMER__DROPOUT=0.2)
    assert_same_weights(weights(tmp_path / "plain"), weights(tmp_path / "evaluated"))


def test_the_best_value_and_a_missed_evaluation_survive_an_interruption(tmp_path):
    # Killed after the checkpoint of iteration 3, before its evaluation was written.
    class KilledBeforeEvaluation(ToyTrainer):
        def save_checkpoint(self, name):
            super().save_checkpoint(name)
            if name == "model_0000003":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path, [50.0], trainer_class=KilledBeforeEvaluation)
    evaluated(tmp_path, [20.0, 30.0, 40.0, 45.0], resume=True)
    scores = {line["iteration"]: line["sem_seg/mIoU"] for line in metrics(tmp_path) if "sem_seg/mIoU" in line}
    assert scores == {1: 50.0, 3: 20.0, 5: 30.0, 7: 40.0, 9: 45.0}
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 1


def test_a_final_evaluation_that_failed_after_the_final_checkpoint_is_run_on_resuming(tmp_path):
    def failing():
        yield from (50.0, 20.0, 30.0, 40.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path, failing())
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    trained = weights(tmp_path)
    assert evaluated(tmp_path, [60.0], resume=True).iter == 10
    scores = {line["iteration"]: line["sem_seg/mIoU"] for line in metrics(tmp_path) if "sem_seg/mIoU" in line}
    assert scores == {1: 50.0, 3: 20.0, 5: 30.0, 7: 40.0, 9: 60.0}
    assert_same_weights(weights(tmp_path, "model_best"), trained)
    # Nothing is missing any more: another evaluation would find no score.
    evaluated(tmp_path, [], resume=True)


def test_settings_that_would_stop_a_run_later_stop_it_at_once(tmp_path):
    with pytest.raises(InputError, match=r"SOLVER\.LOG_PERIOD 0: must be at least 1"):
        ToyTrainer(toy_cfg(tmp_path, SOLVER__LOG_PERIOD=0))
    with pytest.raises(InputError, match=r"EARLY_STOP_PATIENCE 3 without TEST\.BEST_METRIC"):
        ToyTrainer(toy_cfg(tmp_path, TEST__EARLY_STOP_PATIENCE=3))


def test_a_non_finite_loss_leaves_a_capsule_that_reproduces_the_loss(tmp_path):
    broken = type("Broken", (ToyTrainer,), {"break_batch_at": 5})
    message = rf"non-finite loss at iteration 5: batch and state saved to {tmp_path}/nonfinite_5\.pth"
    with pytest.raises(NonFiniteLossError, match=message):
        run_toy(toy_cfg(tmp_path, MODEL__MASK_FORMER__DROPOUT=0.2), trainer_class=broken)
    capsule = torch.load(tmp_path / "nonfinite_5.pth", weights_only=False)
    assert capsule["file_names"] == [f"toy_{index}.png" for index in range(20, 24)]
    assert capsule["learning_rates"] == pytest.approx([0.01 * 0.5**0.9] * 2)
    assert capsule["nonfinite_weights"] == []
    model = ToyPixelClassifier(dropout=0.2).train()
    model.load_state_dict(capsule["model"])
    for image in capsule["batch"]:
        image["image"] = torch.nan_to_num(image["image"], posinf=255.0)
    restore_random_state(capsule["random_state"])
    first = model(capsule["batch"])["loss_ce"]
    restore_random_state(capsule["random_state"])
    assert torch.equal(first, model(capsule["batch"])["loss_ce"])
    assert torch.isfinite(first)
    # The trained iterations are not lost, and the folder can be resumed.
    assert run_toy(toy_cfg(tmp_path, MODEL__MASK_FORMER__DROPOUT=0.2), resume=True).start_iter == 4


def test_batches_that_do_not_divide_are_input_errors(tmp_path):
    with pytest.raises(
        InputError, match=r"IMS_PER_BATCH 4 is not divisible by 1 process x SOLVER\.ACCUMULATE 3"
    ):
        ToyTrainer(toy_cfg(tmp_path, SOLVER__ACCUMULATE=3))


def test_an_unknown_architecture_lists_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"META_ARCHITECTURE 'Toy' is unknown; known: .*ToyPixelClassifier"):
        ToyTrainer(toy_cfg(tmp_path, MODEL__META_ARCHITECTURE="Toy"))


def test_sync_batch_norm_works_on_a_cpu_with_the_same_weights(tmp_path):
    model = ToyPixelClassifier(dropout=0.0, norm=torch.nn.SyncBatchNorm)
    state = model.state_dict()
    model = sync_batch_norm_on_cpu(model, world_size=1)
    assert type(model.norm) is torch.nn.BatchNorm2d
    assert list(model.state_dict()) == list(state)
    model.norm(torch.rand(2, 8, 4, 4)).sum().backward()
