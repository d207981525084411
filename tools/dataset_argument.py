"""The dataset that a tool is told of, as the commands of segzoo read it."""

from segzoo.cli.dataset_option import data_overrides, given_splits, splits_of, tested_splits

__all__ = ["data_overrides", "given_splits", "splits_of", "tested_splits"]
