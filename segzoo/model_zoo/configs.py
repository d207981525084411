"""Load complete configurations of the zoo and of files."""

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
        InputError: the file does not exist, a key is unknown, a value is not allowed or contradicts the
            dataset, or the dataset is unknown.
    """
    return complete_config(read_config(path, overrides))


def get_config(name: str) -> CfgNode:
    """Return the complete configuration of a model of the zoo.

    Raises:
        InputError: there is no such model.
    """
    return load_config(name)
