"""The configuration or splits to draw, resolved before the modules that draw are imported."""

import argparse
from collections.abc import Sequence

from detectron2.config import CfgNode

from segzoo.cli.configuration import load_any
from segzoo.cli.dataset_option import check_splits, data_overrides, given_splits, splits_of
from segzoo.data import label_reader
from segzoo.utils.errors import InputError


def training_config(arguments: argparse.Namespace) -> CfgNode:
    """Return the configuration whose training samples are drawn, one at a time.

    Raises:
        InputError: as `load_config`, or no such dataset.
    """
    _check_chosen(arguments, given_splits(arguments, arguments.dataset_file))  # which registers them
    data, given = arguments.data or arguments.dataset_file, arguments.opts
    if arguments.split:
        data, given = arguments.split[0], ["DATASETS.TRAIN", str(tuple(arguments.split)), *given]
    more = data_overrides(data, given) if data else []
    cfg = load_any(arguments.config_file, [*more, *given], trust=arguments.trust_checkpoint)
    # Data-loader workers would read ahead of the few images that are drawn.
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE = 0, 1, 1
    if cfg.SEED < 0:
        cfg.SEED = 0
    return cfg


def annotated_splits(arguments: argparse.Namespace) -> Sequence[str]:
    """Return the names of the splits whose files are drawn.

    Raises:
        InputError: no such dataset, or none is given.
    """
    names = given_splits(arguments, arguments.dataset_file)
    _check_chosen(arguments, names)
    if arguments.split:
        return list(dict.fromkeys(arguments.split))
    if not names:
        raise InputError(
            "the dataset is missing; give --data with a dataset YAML or a name, or --config-file"
        )
    return names


def _check_chosen(arguments: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise InputError if --split names a split that --data lacks; without --data any split is allowed."""
    data = arguments.data or arguments.dataset_file
    if data:
        check_splits(arguments.split, names, label_reader(splits_of(data)[0]).dataset.path.name)
