"""--data: which splits of a dataset file are for what, and what that is in a configuration."""

import pytest
import yaml

from segzoo.data import read_dataset_file
from segzoo.data.roles import test_split as split_to_test_on
from segzoo.data.roles import training_split
from segzoo.utils.errors import InputError

FACTS = {"images": "{split}/{stem}.jpg", "labels": "{split}_labels/{stem}.png", "classes": ["a", "b"]}


def dataset(folder, **more):
    file = folder / "roads.yaml"
    file.write_text(yaml.safe_dump({**FACTS, **more}), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("splits", "train", "test"),
    [
        ({"x_train": "a", "x_val": "b", "x_test": "c"}, "x_train", "x_val"),
        ({"x_train": "a", "x_trainval": "b", "x_test": "c"}, "x_train", "x_test"),
        ({"q_train_val": "a", "q_test": "b"}, "q_train_val", "q_test"),
        ({"q_train": "a", "q_train-validation": "b", "q_test": "c"}, "q_train", "q_test"),
        ({"q_a": "Train_Val", "q_b": "test"}, "q_a", "q_b"),
        ({"x_one": "training", "x_two": "validation"}, "x_one", "x_two"),
        ({"x_all": "a"}, "x_all", "x_all"),
        ({"x_train": "a", "x_train_again": "a", "x_val": "b"}, "x_train", "x_val"),
    ],
)
def test_roles_follow_from_names(tmp_path, splits, train, test):
    dataset_file = read_dataset_file(dataset(tmp_path, splits=splits))
    assert (training_split(dataset_file), split_to_test_on(dataset_file)) == (train, test)


def test_ambiguous_roles_ask_for_the_key(tmp_path):
    dataset_file = read_dataset_file(dataset(tmp_path, splits={"x_train_a": "a", "x_train_b": "b"}))
    with pytest.raises(InputError, match="x_train_a, x_train_b could be meant; choose one"):
        training_split(dataset_file)
    with pytest.raises(InputError, match="its splits are x_train_a, x_train_b; choose one"):
        split_to_test_on(dataset_file)


def test_data_stands_for_the_keys_of_a_configuration(tmp_path):
    from segzoo.cli.train import build_parser
    from segzoo.model_zoo import load_config

    file = dataset(tmp_path, splits={"roles_train": "train", "roles_val": "val"})
    words = ["--config-file", "semantic/camvid/maskformer_r18", "--data"]
    for data in (file, tmp_path):
        args = build_parser().parse_args([*words, str(data), "SEED", "3"])
        cfg = load_config(args.config_file, args.opts)
        assert tuple(cfg.DATASETS.TRAIN) == ("roles_train",)
        assert tuple(cfg.DATASETS.TEST) == ("roles_val",)
        assert (cfg.SEED, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES) == (3, 2)
    # What is given stays; the name of one split is enough.
    args = build_parser().parse_args([*words, str(file), "DATASETS.TEST", "()"])
    assert tuple(load_config(args.config_file, args.opts).DATASETS.TEST) == ()
    args = build_parser().parse_args([*words, "voc_2012_sem_seg_val"])
    assert load_config(args.config_file, args.opts).MODEL.SEM_SEG_HEAD.NUM_CLASSES == 21


def test_a_job_reads_a_copy_of_the_dataset_file(tmp_path):
    from segzoo.cli.submission.plan import freeze, plan_runs

    file = dataset(tmp_path, splits={"job_train": "train", "job_val": "val"})
    words = ["--config-file", "semantic/camvid/maskformer_r18", f"--data={file}", "SEED", "1"]
    (run,) = plan_runs(words, [], [], tmp_path / "job")
    assert "--data" not in run.arguments
    freeze(run, tmp_path / "snapshot")
    assert run.arguments[-2] == "DATASETS.FILES"
    assert str(tmp_path / "snapshot") in run.arguments[-1]
