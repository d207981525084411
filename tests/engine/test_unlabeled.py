"""Trainings without labels: a warning, an early end, and never a best model."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.utils import comm

from segzoo.data.labeled import check_labeled, holds_targets
from segzoo.engine.unlabeled import UnlabeledHook
from segzoo.utils.errors import InputError
from tests.engine.toy_training import ToyTrainer, run_toy, toy_cfg, toy_image

IMAGES = 30


class Data:
    """A loader with the attributes of segzoo's."""

    def __init__(self, labeled):
        self.labeled, self.dataset = labeled, range(IMAGES)

    def __iter__(self):
        index = 0
        while True:
            batch = []
            for _ in range(4):
                found = self.labeled(index % IMAGES, index)
                classes = torch.zeros(int(found), dtype=torch.int64)
                batch.append({**toy_image(index), "segment_classes": classes})
                index += 1
            yield batch


def run(folder, labeled, iterations, **changes):
    class Trainer(ToyTrainer):
        @classmethod
        def build_train_loader(cls, cfg, start_iteration):
            return Data(labeled)

    period = {"SOLVER__LOG_PERIOD": 50, "SOLVER__CHECKPOINT_PERIOD": 0}
    return run_toy(toy_cfg(folder, SOLVER__MAX_ITER=iterations, **period, **changes), trainer_class=Trainer)


def said(folder):
    lines = (folder / "log.txt").read_text().splitlines()
    return [line for line in lines if "no labeled pixel" in line and "WARNING" in line]


def test_a_training_without_labels_warns_after_ten_iterations_and_ends_after_a_hundred(tmp_path):
    with pytest.raises(InputError) as error:
        run(tmp_path, lambda image, index: False, 150)
    assert "no labeled pixel in the 400 images of 100 iterations" in str(error.value)
    assert "segzoo check-data" in str(error.value)
    (line,) = said(tmp_path)
    assert "DATASETS.TRAIN ('toy_train',): no labeled pixel in the 40 images of 10 iterations" in line
    assert "the training ends after 100 such iterations" in line


def test_a_short_training_that_saw_all_images_twice_fails(tmp_path):
    with pytest.raises(InputError, match="no labeled pixel in the 60 images of 15 iterations"):
        run(tmp_path, lambda image, index: False, 15)
    assert (tmp_path / "model_final.pth").is_file()


def test_a_short_training_gets_a_warning(tmp_path):
    run(tmp_path, lambda image, index: False, 3)
    assert len(said(tmp_path)) == 1
    assert "12 images of 3 iterations" in said(tmp_path)[0]


@pytest.mark.parametrize("image", [0, 17])
def test_one_labeled_image_among_many_is_enough(tmp_path, image):
    run(tmp_path, lambda one, index: one == image, 110)
    assert not said(tmp_path)


def test_a_labeled_image_that_comes_late_lets_the_training_continue(tmp_path):
    """Random crops miss it for 99 iterations."""
    run(tmp_path, lambda image, index: index == 395, 105)
    assert len(said(tmp_path)) == 1


def test_a_large_set_is_seen_twice_before_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(Data, "__iter__", lambda self: iter(()))
    trainer = ToyTrainer(toy_cfg(tmp_path, SOLVER__MAX_ITER=5000))
    (hook,) = (hook for hook in trainer._hooks if type(hook).__name__ == "UnlabeledHook")
    trainer.num_images = 1001
    hook.before_train()
    assert hook._stop_at == math.ceil(2 * 1001 / 4)
    trainer.num_images = None
    hook.before_train()
    assert hook._stop_at is None


def steps_until_it_ends(start):
    """Return the steps of a training without labels from iteration `start` on, at most 150."""
    hook = UnlabeledHook("semantic", ["toy_train"], 4)
    hook.trainer = SimpleNamespace(max_iter=5000, start_iter=start, num_images=IMAGES, saw_targets=False)
    hook.before_train()
    for step in range(150):
        hook.trainer.iter = start + step
        try:
            hook.after_step()
        except InputError:
            return step + 1
    return None


def test_a_resumed_training_gets_its_own_hundred_iterations():
    assert steps_until_it_ends(0) == 100
    assert steps_until_it_ends(95) == 100
    assert steps_until_it_ends(900) == 100


def test_a_label_in_one_process_lets_all_continue(monkeypatch):
    monkeypatch.setattr(comm, "all_gather", lambda seen: [seen, True])
    assert steps_until_it_ends(0) is None


def test_batches_of_another_mapper_count_as_labeled():
    assert holds_targets([{"image": 0}])
    assert not holds_targets([{"segment_classes": torch.zeros(0)}] * 2)
    assert holds_targets([{"segment_classes": torch.zeros(0)}, {"segment_classes": torch.zeros(1)}])


THINGS = np.array([True, False])


@pytest.mark.parametrize(
    ("task", "segments", "message"),
    [
        ("instance", [(0, 1), (0, 1)], "2 images without any non-crowd instance (of 2 in"),
        ("instance", [(1, 0)], "2 images without any non-crowd instance (of 1 in"),
        ("instance", [], "(of 0 in their JSON), so there is nothing to learn"),
        ("panoptic", [(0, 1), (1, 1)], "2 images without any non-crowd segment"),
        ("entity", [(1, 1)], "2 images without any non-crowd segment"),
        ("instance", [(0, 1), (0, 0)], ""),
        ("panoptic", [(1, 0)], ""),
        ("entity", [(1, 0)], ""),
        ("semantic", [], ""),
    ],
)
def test_a_json_without_labels_stops_before_the_training(task, segments, message):
    listed = [{"category_id": category, "iscrowd": crowd} for category, crowd in segments]
    records = [{"annotations": []}, {"annotations": listed}]
    if not message:
        check_labeled([(records, THINGS)], task, ["pets"])
        return
    with pytest.raises(InputError) as error:
        check_labeled([(records, THINGS)], task, ["pets"])
    assert message in str(error.value)
    # Semantic labels are in files, which are not opened for the check.
    check_labeled([([*records, {"sem_seg_file_name": "a.png"}], THINGS)], task, ["pets"])
    # A dataset without targets may be beside one that has some, of other classes.
    other = [{"segments_info": [{"category_id": 2, "iscrowd": 0}]}]
    check_labeled([(records, THINGS), (other, np.array([True] * 3))], task, ["pets", "cars"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_score_is_never_the_best(tmp_path, value):
    scores = iter([value, value, 20.0, value, 10.0])
    cfg = toy_cfg(
        tmp_path, DATASETS__TEST=("toy_val",), TEST__EVAL_PERIOD=2, TEST__BEST_METRIC="sem_seg/mIoU"
    )
    run_toy(cfg, trainer_class=type("Scored", (ToyTrainer,), {"scores": scores}))
    text = (tmp_path / "log.txt").read_text()
    assert text.count("is the best so far") == 1
    assert text.count("not a finite score: no best model is saved") == 3
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 5


def test_without_any_score_there_is_no_best_model_but_patience_ends(tmp_path):
    cfg = toy_cfg(
        tmp_path,
        DATASETS__TEST=("toy_val",),
        TEST__EVAL_PERIOD=2,
        TEST__BEST_METRIC="sem_seg/mIoU",
        TEST__EARLY_STOP_PATIENCE=2,
    )
    trainer = run_toy(cfg, trainer_class=type("Scored", (ToyTrainer,), {"scores": iter([math.nan] * 5)}))
    assert not (tmp_path / "model_best.pth").exists()
    assert trainer.iter == 6
