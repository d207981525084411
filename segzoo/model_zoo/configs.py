"""Configurations of the zoo and of files, complete."""

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

from segzoo.config.load import read_config
from segzoo.data.dataset_config import complete_config


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> CfgNode:
    """Read a configuration file and complete it.

    Args:
        path: a YAML file, or a name below `configs/` without `.yaml`: `semantic/camvid/maskformer_r18`.
        overrides: alternating keys and values, as on a command line: `["SOLVER.MAX_ITER", "10"]`.

    Returns:
        The configuration, with the datasets of `DATASETS.FILES` registered and the values that follow from
        the dataset filled in. It is not frozen.

    Raises:
        InputError: file not found, unknown key, wrong type or value, unknown dataset, contradiction with the
            dataset.
    """
    return complete_config(read_config(path, overrides))


def get_config(name: str) -> CfgNode:
    """The complete configuration of a model of the zoo.

    Raises:
        InputError: no such model.
    """
    return load_config(name)
