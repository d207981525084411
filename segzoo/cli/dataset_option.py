"""How commands are told of a dataset: --data, and what it stands for in a configuration."""

import argparse
from collections.abc import Sequence

from segzoo.config.load import read_config
from segzoo.data import label_reader, register_dataset_file
from segzoo.data.register import is_split
from segzoo.data.roles import test_split, training_split
from segzoo.utils.errors import InputError

from .configuration import read_any


def splits_of(data: str) -> list[str]:
    """The registered names that a dataset YAML, its folder, a built-in dataset or a single split stands for.

    Raises:
        InputError: there is no such dataset, or its YAML is wrong.
    """
    is_file = data.endswith((".yaml", ".yml"))
    if not is_file and is_split(data):
        return [data]
    try:
        return register_dataset_file(data)
    except InputError:
        # Asked last, since its import takes long.
        from detectron2.data import DatasetCatalog

        if is_file or data not in DatasetCatalog:
            raise
        return [data]


def check_splits(chosen: Sequence[str], names: Sequence[str], whose: str) -> None:
    """Check that what --split names are splits of a dataset or a configuration.

    Args:
        chosen: what --split names.
        names: the splits that there are.
        whose: they are, for the message.

    Raises:
        InputError: one is not.
    """
    for split in chosen:
        if split not in names:
            raise InputError(f"--split {split}: {whose} has {', '.join(names) or 'no dataset'}")


def given_splits(args: argparse.Namespace, *also: str | None) -> list[str]:
    """The splits that --data, `also` (other ways to give the same) and a configuration name, in this order.

    Raises:
        InputError: no such dataset.
    """
    names = [name for data in (args.data, *also) if data for name in splits_of(data)]
    train, test = _configured(args)
    return list(dict.fromkeys([*names, *train, *test]))


def tested_splits(args: argparse.Namespace) -> Sequence[str]:
    """The splits that a configuration tests on, if one is given; else none."""
    return _configured(args)[1]


def _configured(args: argparse.Namespace) -> tuple[Sequence[str], Sequence[str]]:
    """DATASETS.TRAIN and TEST; where both are empty, all splits of DATASETS.FILES stand for TEST."""
    if not (args.config_file or args.opts):
        return (), ()
    cfg = read_any(args.config_file, args.opts, trust=getattr(args, "trust_checkpoint", False))
    of_files = [name for file in cfg.DATASETS.FILES for name in register_dataset_file(file)]
    train, test = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    return (train, test) if train or test else ((), of_files)


def data_overrides(data: str, overrides: Sequence[str]) -> list[str]:
    """The overrides that make a configuration use a dataset, beside those that were given.

    Raises:
        InputError: no such dataset, or it does not follow from names which of its splits is for what.
    """
    given = dict(zip(overrides[::2], overrides[1::2], strict=False))
    names = splits_of(data)
    dataset = label_reader(names[0]).dataset
    added = {}
    if data not in names:
        files = read_config(None, ["DATASETS.FILES", given.get("DATASETS.FILES", "()")]).DATASETS.FILES
        added["DATASETS.FILES"] = str((*files, str(dataset.path)))
    for key, split_of in (("DATASETS.TRAIN", training_split), ("DATASETS.TEST", test_split)):
        if key not in given:
            added[key] = str((data if data in names else split_of(dataset),))
    if "DATASETS.CLASSES_FROM" not in given:
        added["DATASETS.CLASSES_FROM"] = ""
    return [word for pair in added.items() for word in pair]
