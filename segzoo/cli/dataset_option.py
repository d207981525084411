"""The option --data, and the configuration keys that it stands for."""

import argparse
from collections.abc import Sequence

from segzoo.config.load import read_config
from segzoo.data import label_reader, register_dataset_file
from segzoo.data.register import is_split
from segzoo.data.roles import test_split, training_split
from segzoo.utils.errors import InputError

from .configuration import read_any


def splits_of(data: str) -> list[str]:
    """Return the registered splits of a dataset YAML, its folder, a built-in dataset or a single split.

    Raises:
        InputError: there is no such dataset, or its YAML is wrong.
    """
    is_file = data.endswith((".yaml", ".yml"))
    if not is_file and is_split(data):
        return [data]
    try:
        return register_dataset_file(data)
    except InputError:
        # Last, since its import takes long.
        from detectron2.data import DatasetCatalog

        if is_file or data not in DatasetCatalog:
            raise
        return [data]


def check_splits(chosen: Sequence[str], names: Sequence[str], whose: str) -> None:
    """Check that --split names splits of a dataset or a configuration.

    Args:
        chosen: names of --split.
        names: existing splits.
        whose: their dataset or configuration, for the message.

    Raises:
        InputError: a name is unknown.
    """
    for split in chosen:
        if split not in names:
            raise InputError(f"--split {split}: {whose} has {', '.join(names) or 'no dataset'}")


def given_splits(args: argparse.Namespace, *also: str | None) -> list[str]:
    """Return the splits of --data, of `also` (other ways to give the same) and of a configuration, in order.

    Raises:
        InputError: no such dataset.
    """
    names = [name for data in (args.data, *also) if data for name in splits_of(data)]
    train, test = _configured(args)
    return list(dict.fromkeys([*names, *train, *test]))


def tested_splits(args: argparse.Namespace) -> Sequence[str]:
    """Return the splits that a configuration tests on; none without a configuration."""
    return _configured(args)[1]


def _configured(args: argparse.Namespace) -> tuple[Sequence[str], Sequence[str]]:
    """Return DATASETS.TRAIN and TEST; if both are empty, all splits of DATASETS.FILES as TEST."""
    if not (args.config_file or args.opts):
        return (), ()
    cfg = read_any(args.config_file, args.opts, trust=getattr(args, "trust_checkpoint", False))
    of_files = [name for file in cfg.DATASETS.FILES for name in register_dataset_file(file)]
    train, test = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    return (train, test) if train or test else ((), of_files)


def data_overrides(data: str, overrides: Sequence[str]) -> list[str]:
    """Return the overrides that make a configuration use a dataset, in addition to the given ones.

    Raises:
        InputError: no such dataset, or the names of its splits do not show which to train and test on.
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
