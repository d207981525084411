"""Batches depend on seed and iteration alone; broken files stop training or are skipped, as configured."""

import random

import numpy as np
import pytest
import torch
from detectron2.utils import comm

from segzoo.config.defaults import default_config
from segzoo.data import build_test_loader, build_train_loader, register_dataset_file
from segzoo.utils.errors import InputError
from tests.data.data_trees import ROADS, random_image, save, write_yaml

IMAGES = 10


@pytest.fixture
def cfg(tmp_path):
    """Ten images, cropped, jittered and flipped at random."""
    for number in range(IMAGES):
        save(tmp_path / f"images/train/{number}.png", random_image(20, 30, number))
        labels = np.random.default_rng(number).integers(0, 5, (20, 30), dtype=np.uint8)
        save(tmp_path / f"masks/train/{number}.png", labels)
    register_dataset_file(write_yaml(tmp_path, ROADS))
    cfg = default_config()
    cfg.SEED = 5
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("roads_train",)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP_SIZE, cfg.INPUT.COLOR_AUG = (20, 25, 30), (16, 16), True
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


def set_world(monkeypatch, rank, size):
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: size)


def take(loader, count):
    """The first batches."""
    return [batch for batch, _ in zip(loader, range(count), strict=False)]


def assert_same(first, second):
    """The same images with the same augmentation, in the same order."""
    assert [one["file_name"] for one in first] == [one["file_name"] for one in second]
    for one, other in zip(first, second, strict=True):
        for key in ("image", "sem_seg", "segment_map", "segment_classes"):
            assert torch.equal(one[key], other[key])


@pytest.mark.parametrize("workers", [0, 3])
def test_the_same_seed_gives_the_same_batches_with_any_number_of_workers(cfg, workers):
    expected = take(build_train_loader(cfg), 6)
    cfg.DATALOADER.NUM_WORKERS = workers
    for one, other in zip(expected, take(build_train_loader(cfg), 6), strict=True):
        assert_same(one, other)


def test_another_seed_gives_other_batches(cfg):
    first = take(build_train_loader(cfg), 1)[0]
    cfg.SEED = 6
    second = take(build_train_loader(cfg), 1)[0]
    assert [one["file_name"] for one in first] != [one["file_name"] for one in second]


def test_an_image_is_augmented_anew_each_time_it_comes(cfg):
    samples = [one for batch in take(build_train_loader(cfg), 10) for one in batch]
    seen = {}
    for sample in samples:
        seen.setdefault(sample["file_name"], []).append(sample["image"])
    assert sorted(len(images) for images in seen.values()) == [4] * IMAGES
    assert all(not torch.equal(images[0], images[1]) for images in seen.values())


@pytest.mark.parametrize("start", [1, 2, 7])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_loader_continues_where_the_first_one_stopped(cfg, start, accumulate):
    cfg.SOLVER.ACCUMULATE = accumulate
    whole = take(build_train_loader(cfg), (start + 2) * accumulate)
    resumed = take(build_train_loader(cfg, start_iteration=start), 2 * accumulate)
    for one, other in zip(whole[start * accumulate :], resumed, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("start", [0, 3])
def test_all_processes_together_see_the_batch_of_a_single_one(cfg, monkeypatch, world_size, start):
    alone = take(build_train_loader(cfg, start_iteration=start), 4)
    shares = []
    for rank in range(world_size):
        set_world(monkeypatch, rank, world_size)
        shares.append(take(build_train_loader(cfg, start_iteration=start), 4))
    for iteration, batch in enumerate(alone):
        union = [None] * len(batch)
        for rank, share in enumerate(shares):
            assert len(share[iteration]) == 4 // world_size
            union[rank::world_size] = share[iteration]
        assert_same(batch, union)


def test_accumulation_splits_the_batch_in_order(cfg):
    whole = take(build_train_loader(cfg), 3)
    cfg.SOLVER.ACCUMULATE = 2
    parts = take(build_train_loader(cfg), 6)
    for index, batch in enumerate(whole):
        assert_same(batch, parts[2 * index] + parts[2 * index + 1])


def test_every_image_comes_once_an_epoch(cfg):
    names = [one["file_name"] for batch in take(build_train_loader(cfg), 5) for one in batch]
    assert len(set(names[:IMAGES])) == len(set(names[IMAGES:])) == IMAGES
    assert names[:IMAGES] != names[IMAGES:]


def test_loading_leaves_the_random_generators_of_training_alone(cfg):
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    take(build_train_loader(cfg), 2)
    take(build_test_loader(cfg, "roads_train"), 2)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


@pytest.mark.parametrize(
    ("batch", "accumulate", "world_size", "message"),
    [
        (16, 1, 3, "SOLVER.IMS_PER_BATCH 16 is not divisible by 3 processes"),
        (6, 4, 1, "SOLVER.IMS_PER_BATCH 6 is not divisible by 1 process x SOLVER.ACCUMULATE 4"),
        (0, 1, 1, "SOLVER.IMS_PER_BATCH 0 is not divisible by 1 process"),
    ],
)
def test_an_invalid_batch_size_is_explained(cfg, monkeypatch, batch, accumulate, world_size, message):
    set_world(monkeypatch, 0, world_size)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE = batch, accumulate
    with pytest.raises(InputError) as caught:
        build_train_loader(cfg)
    assert str(caught.value) == f"{message}; it is the number of images per update over all processes"


def break_labels(tmp_path, *numbers):
    for number in numbers:
        save(tmp_path / f"masks/train/{number}.png", np.full((20, 30), 9, dtype=np.uint8))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_stops_training_with_one_line(cfg, tmp_path, workers):
    break_labels(tmp_path, 3)
    cfg.DATALOADER.NUM_WORKERS = workers
    with pytest.raises(InputError) as caught:
        take(build_train_loader(cfg), 3)
    assert str(caught.value).startswith(f"{tmp_path}/masks/train/3.png: label 9 is outside [0, 5)")
    assert str(caught.value).endswith("; DATALOADER.ON_ERROR skip trains without such files")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_skipped_counted_and_listed_on_request(cfg, tmp_path, workers, caplog):
    whole = take(build_train_loader(cfg), 5)
    break_labels(tmp_path, 3, 7)
    cfg.DATALOADER.ON_ERROR, cfg.DATALOADER.NUM_WORKERS = "skip", workers
    loader = build_train_loader(cfg)
    batches = take(loader, 5)
    names = [one["file_name"] for batch in batches for one in batch]
    assert len(names) == 20
    assert not any(name.endswith(("3.png", "7.png")) for name in names)
    assert sorted(loader.skipped.values()) >= [2, 2]
    assert {message.split(":")[0] for message in loader.skipped} == {
        f"{tmp_path}/masks/train/{number}.png" for number in (3, 7)
    }
    assert all("skipped" not in one for batch in batches for one in batch)
    # Every other position of the stream is as it was, and a second run replaces by the same images.
    for before, after in zip(whole, batches, strict=True):
        for one, other in zip(before, after, strict=True):
            if not one["file_name"].endswith(("3.png", "7.png")):
                assert_same([one], [other])
    for one, other in zip(batches, take(build_train_loader(cfg), 5), strict=True):
        assert_same(one, other)


def test_when_nothing_can_be_read_skipping_ends_too(cfg, tmp_path):
    break_labels(tmp_path, *range(IMAGES))
    cfg.DATALOADER.ON_ERROR = "skip"
    with pytest.raises(InputError, match=r"none of [0-9]+ images tried in its place can be used either"):
        take(build_train_loader(cfg), 1)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 4])
def test_evaluation_sees_every_image_once_and_in_order(cfg, monkeypatch, world_size, batch):
    cfg.TEST.IMS_PER_BATCH = batch
    names = []
    for rank in range(world_size):
        set_world(monkeypatch, rank, world_size)
        loader = build_test_loader(cfg, "roads_train")
        batches = list(loader)
        assert len(loader) == len(batches)
        assert all(len(one) <= batch for one in batches)
        names += [one["image_id"] for part in batches for one in part]
    assert names == [str(number) for number in range(IMAGES)]


def test_a_broken_image_stops_evaluation_with_one_line(cfg, tmp_path):
    (tmp_path / "images/train/4.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"4.png: cannot be read as an image .*; replace the file$"):
        list(build_test_loader(cfg, "roads_train"))


def test_detectron2s_other_samplers_work_and_unknown_ones_are_explained(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.RANDOM_SUBSET_RATIO = "RandomSubsetTrainingSampler", 0.3
    names = {one["file_name"] for batch in take(build_train_loader(cfg), 6) for one in batch}
    assert len(names) == 3
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    with pytest.raises(InputError, match="RepeatFactorTrainingSampler needs panoptic or instance datasets"):
        build_train_loader(cfg)
    cfg.DATALOADER.SAMPLER_TRAIN = "Sampler"
    with pytest.raises(InputError, match=r"DATALOADER.SAMPLER_TRAIN 'Sampler' is one of TrainingSampler"):
        build_train_loader(cfg)


def test_datasets_of_different_classes_cannot_be_mixed(cfg, tmp_path):
    (tmp_path / "other").mkdir()
    content = {**ROADS, "classes": ["a", "b"], "splits": {"other_train": "train"}}
    register_dataset_file(write_yaml(tmp_path / "other", content))
    cfg.DATASETS.TRAIN = ("roads_train", "other_train")
    with pytest.raises(InputError, match="other_train has other classes than roads_train"):
        build_train_loader(cfg)
