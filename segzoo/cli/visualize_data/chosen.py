"""What is drawn, found out before what draws it is imported."""

import argparse
from collections.abc import Sequence

from detectron2.config import CfgNode

from segzoo.cli.configuration import load_any
from segzoo.cli.dataset_option import data_overrides, given_splits, splits_of
from segzoo.utils.errors import InputError


def training_config(arguments: argparse.Namespace) -> CfgNode:
    """Return the configuration whose training samples are drawn, one at a time.

    Raises:
        InputError: as `load_config`, or no such dataset.
    """
    data = arguments.dataset or arguments.data or arguments.dataset_file
    if arguments.dataset_file or arguments.data:
        splits_of(arguments.dataset_file or arguments.data)  # may register what --dataset names
    more = data_overrides(data, arguments.opts) if data else []
    cfg = load_any(arguments.config_file, [*more, *arguments.opts], trust=arguments.trust_checkpoint)
    # Workers would read ahead of the few images wanted. A broken file is to be seen, not skipped.
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
    if arguments.dataset:
        return [arguments.dataset]
    if not names:
        raise InputError(
            "the dataset is missing; give --data with a dataset YAML or a name, or --config-file"
        )
    return names
