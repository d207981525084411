"""DATALOADER.ON_ERROR skip: broken files are skipped, counted and listed; the run is reproducible."""

import json
from itertools import chain

import numpy as np
import pytest

from segzoo.data import build_test_loader, build_train_loader, register_dataset_file
from segzoo.engine import Trainer, default_setup, evaluate
from segzoo.engine.shards import Shard, evaluate_shard
from segzoo.evaluation.rescore import rescore
from segzoo.evaluation.results import load_results
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.data.data_trees import ROADS, random_image, save, write_yaml

IMAGES = 8
# One is not an image, one has a label of no class, one differs in size from its image.
BROKEN = {1: "images/1.png", 4: "masks/4.png", 6: "masks/6.png"}


@pytest.fixture
def cfg(tmp_path):
    for number in range(IMAGES):
        save(tmp_path / f"images/{number}.png", random_image(32, 32, number))
        save(tmp_path / f"masks/{number}.png", np.full((32, 32), number % 5, np.uint8))
    (tmp_path / "images/1.png").write_bytes(b"nothing")
    save(tmp_path / "masks/4.png", np.full((32, 32), 9, np.uint8))
    save(tmp_path / "masks/6.png", np.zeros((16, 16), np.uint8))
    content = {**ROADS, "images": "images/{stem}.png", "labels": "masks/{stem}.png"}
    file = write_yaml(tmp_path, content)
    register_dataset_file(file)
    cfg = load_config("semantic/shapes/pspnet_r18_quarter", overrides(file, tmp_path))
    cfg.DATALOADER.ON_ERROR = "skip"
    return cfg


def overrides(file, folder):
    values = {
        "DATASETS.FILES": f"({str(file)!r},)",
        "DATASETS.TRAIN": "('roads_train',)",
        "DATASETS.TEST": "('roads_train',)",
        "MODEL.SEM_SEG_HEAD.NORM": "BN",
        "MODEL.DEVICE": "cpu",
        "INPUT.CROP_SIZE": "(64, 64)",
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "INPUT.MIN_SIZE_TEST": 32,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.LOG_PERIOD": 1,
        "SOLVER.MAX_ITER": 6,
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": folder / "out",
        "SEED": 3,
    }
    return [str(part) for pair in values.items() for part in pair]


def numbers(batches):
    return [[int(one["file_name"].split("/")[-1][:-4]) for one in batch] for batch in batches]


def take(loader, count):
    return [batch for _, batch in zip(range(count), loader, strict=False)]


@pytest.mark.parametrize("start", [1, 5])
def test_replacements_are_the_same_over_a_resume(cfg, start):
    whole = take(build_train_loader(cfg), 10)
    rest = take(build_train_loader(cfg, start_iteration=start), 10 - start)
    assert numbers(whole)[start:] == numbers(rest)
    for one, other in zip(chain(*whole[start:]), chain(*rest), strict=True):
        assert (one["image"] == other["image"]).all()
    assert {number for batch in numbers(whole) for number in batch}.isdisjoint(BROKEN)


def test_replacements_do_not_depend_on_how_many_processes_share_them(cfg, monkeypatch):
    from detectron2.utils import comm

    whole = numbers(take(build_train_loader(cfg), 6))
    halves = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: 2)
        halves.append(numbers(take(build_train_loader(cfg), 6)))
    assert whole == [[*first, *second] for first, second in zip(*halves, strict=True)]


def test_one_good_image_of_many_is_found(cfg, tmp_path):
    for number in range(1, IMAGES):
        (tmp_path / f"images/{number}.png").write_bytes(b"nothing")
    assert numbers(take(build_train_loader(cfg), 10)) == [[0, 0]] * 10


def test_where_all_are_broken_training_and_evaluation_end_with_one_line(cfg, tmp_path):
    for number in range(IMAGES):
        (tmp_path / f"images/{number}.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"\.png: cannot be read .* \(none of 7 images tried in its place"):
        take(build_train_loader(cfg), 1)
    with pytest.raises(
        InputError, match=r"0\.png: cannot be read .* \(and none of the 8 images can be used\)"
    ):
        evaluate(cfg, Trainer.build_model(cfg))


def test_wrong_settings_are_never_skipped(cfg):
    cfg.INPUT.BLUR_KERNEL, cfg.INPUT.AUGMENTATION = 4, "semseg"
    with pytest.raises(InputError, match="INPUT"):
        take(build_train_loader(cfg), 1)


@pytest.mark.parametrize("side", ["32", 0, -1, float("nan"), None])
def test_an_image_whose_annotation_has_no_size_is_skipped_too(cfg, tmp_path, side):
    record = {"file_name": f"{tmp_path}/images/0.png", "height": side, "width": 32, "dataset": "roads_train"}
    good = {**record, "file_name": f"{tmp_path}/images/2.png", "height": 32}
    good["sem_seg_file_name"] = f"{tmp_path}/masks/2.png"
    loader = build_test_loader(cfg, "roads_train", dataset=[record, good])
    assert numbers(loader) == [[2]]
    assert "but its annotation says" in loader.skipped_images[record["file_name"]]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("batch", [1, 3])
def test_evaluation_leaves_out_what_cannot_be_scored_and_lists_it(cfg, tmp_path, workers, batch):
    cfg.DATALOADER.NUM_WORKERS, cfg.TEST.IMS_PER_BATCH = workers, batch
    loader = build_test_loader(cfg, "roads_train")
    seen = sorted(number for part in numbers(loader) for number in part)
    assert seen == [0, 2, 3, 5, 7]
    assert {file: message.split(": ")[0] for file, message in loader.skipped_images.items()} == {
        f"{tmp_path}/images/{number}.png": f"{tmp_path}/{broken}" for number, broken in BROKEN.items()
    }


def test_a_training_lists_what_it_skipped_and_a_resumed_one_continues_the_list(cfg, tmp_path):
    cfg.DATASETS.TEST = ()
    listed = tmp_path / "out/skipped_files.txt"

    def train(iterations, resume):
        cfg.defrost()
        cfg.SOLVER.MAX_ITER = iterations
        default_setup(cfg)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=resume)
        trainer.train()
        return {line.split(": ")[0] for line in listed.read_text().splitlines()}

    everything = {f"{tmp_path}/{file}" for file in BROKEN.values()}
    assert train(8, resume=False) == everything
    # Two iterations more see few of the files; the others are still in the list.
    assert train(9, resume=True) == everything
    assert "times in total" in (tmp_path / "out/log.txt").read_text()


def test_what_was_skipped_before_an_early_end_is_listed(cfg, tmp_path):
    cfg.DATASETS.TEST, cfg.SOLVER.LOG_PERIOD, cfg.SOLVER.MAX_ITER = (), 100, 50

    class Stopped(Trainer):
        def after_step(self):
            super().after_step()
            if self.skipped:
                self.stop("enough")

    default_setup(cfg)
    trainer = Stopped(cfg)
    trainer.train()
    assert trainer.iter < 49
    listed = (tmp_path / "out/skipped_files.txt").read_text().splitlines()
    assert listed == sorted(trainer.skipped)


@pytest.fixture
def results(cfg, tmp_path):
    """An evaluation that saved its predictions."""
    default_setup(cfg)
    cfg.defrost()
    cfg.TEST.SAVE_PREDICTIONS = True
    return evaluate(cfg, Trainer.build_model(cfg))


def test_results_list_the_images_that_are_not_in_them(cfg, tmp_path, results):
    document = load_results(tmp_path / "out/inference")
    protocol = document["protocol"]
    assert protocol["datasets"] == {"roads_train": 5}
    assert protocol["images_skipped"] == {"roads_train": 3}
    assert sorted(protocol["skipped"]["roads_train"]) == [
        f"{tmp_path}/images/{number}.png" for number in sorted(BROKEN)
    ]
    log = (tmp_path / "out/log.txt").read_text()
    assert (
        "roads_train: 3 of 8 images skipped (DATALOADER.ON_ERROR skip): these metrics are not those of" in log
    )
    # What was scored is what a dataset of the good images alone gives.
    matrix = np.loadtxt(tmp_path / "out/inference/sem_seg_confusion.csv", str, delimiter=",", skiprows=1)
    assert matrix[:, 1:].astype(int).sum(axis=1).tolist() == [2048, 0, 2048, 1024, 0]


def test_saved_predictions_are_scored_again_without_the_skipped_images(tmp_path, results):
    again, path = rescore("roads_train", tmp_path / "out/inference")
    assert again["sem_seg"]["mIoU"] == results["sem_seg"]["mIoU"]
    assert json.loads(path.read_text())["protocol"]["images_skipped"] == {"roads_train": 3}


def test_shards_count_skipped_images_as_done(cfg, tmp_path, results):
    whole = load_results(tmp_path / "out/inference")
    default_setup(cfg)
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.TEST.SAVE_PREDICTIONS = str(tmp_path / "sharded"), False
    model = Trainer.build_model(cfg)
    expected = evaluate(cfg, model)
    assert evaluate_shard(cfg, model, Shard(2, 2)) == {}
    for index in (1, 2):
        found = evaluate_shard(cfg, model, Shard(index, 2))
        assert {key: found["sem_seg"][key] for key in ("mIoU", "aAcc")} == {
            key: expected["sem_seg"][key] for key in ("mIoU", "aAcc")
        }
    sharded = load_results(tmp_path / "sharded/inference")["protocol"]
    assert sharded["skipped"] == whole["protocol"]["skipped"]
    assert sharded["datasets"] == {"roads_train": 5}
