"""The splits to check, resolved before the modules that read them are imported."""

import argparse
from collections.abc import Sequence

from segzoo.cli.dataset_option import check_splits, given_splits, splits_of
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


def find_splits(name: str, chosen: Sequence[str]) -> list[str]:
    """Return the names of a dataset's splits to check; where several name the same images, the first.

    Raises:
        InputError: no such dataset or split, or a wrong YAML.
    """
    names = splits_of(name)
    dataset = label_reader(names[0]).dataset
    if chosen and names == [name]:
        raise InputError(f"--split {chosen[0]}: {name} is a split itself; give its dataset, or no --split")
    check_splits(chosen, names, dataset.path.name)
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
    check_splits(arguments.split, names, "the configuration")
    if not names:
        raise InputError("DATASETS: the configuration has no dataset")
    for name in names:
        label_reader(name)  # raises for datasets without a YAML
    return [name for name in names if name in (arguments.split or names)]
