"""The splits to check, resolved before the modules that read them are imported."""

import argparse
from collections.abc import Sequence

from segzoo.cli.dataset_option import given_splits, splits_of
from segzoo.data import label_reader
from segzoo.utils.errors import InputError


def chosen_splits(arguments: argparse.Namespace) -> list[str]:
    """Return the names of the splits to check.

    Raises:
        InputError: no such dataset or split.
    """
    if arguments.dataset:
        return find_splits(arguments.dataset, arguments.split)
    return configured_splits(arguments)


def find_splits(name: str, chosen: Sequence[str] | None) -> list[str]:
    """Return the names of a dataset's splits to check; where several name the same images, the first.

    Raises:
        InputError: no such dataset or split, or a wrong YAML.
    """
    names = splits_of(name)
    dataset = label_reader(names[0]).dataset
    if chosen and names == [name]:
        raise InputError(f"--split {chosen[0]}: {name} is a split itself; give its dataset, or no --split")
    for split in chosen or ():
        if split not in names:
            raise InputError(f"--split {split}: {dataset.path.name} has {', '.join(names)}")
    if chosen:
        return list(dict.fromkeys(chosen))
    distinct = {tuple(sorted(dataset.splits[split].items())): split for split in reversed(names)}
    return [split for split in names if split in distinct.values()]


def configured_splits(arguments: argparse.Namespace) -> list[str]:
    """Return the names of the splits that a configuration trains and tests on.

    Raises:
        InputError: it has none, or lacks a chosen one.
    """
    names = given_splits(arguments)
    missing = [split for split in arguments.split or () if split not in names]
    if missing or not names:
        what = f"--split {missing[0]}" if missing else "DATASETS"
        raise InputError(f"{what}: the configuration has {', '.join(names) or 'no dataset'}")
    for name in names:
        label_reader(name)  # raises for datasets without a YAML
    return [name for name in names if name in (arguments.split or names)]
