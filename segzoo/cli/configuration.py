"""The configuration of a command: that of a name, a file, or a checkpoint of segzoo, which holds one."""

from collections.abc import Sequence

from detectron2.config import CfgNode

from segzoo.config.files import names_checkpoint
from segzoo.config.load import parse_config, read_config
from segzoo.data.dataset_config import complete_config
from segzoo.data.dataset_file import is_dataset_file
from segzoo.data.register import dataset_metadata


def load_any(
    name: str, overrides: Sequence[str] = (), *, trust: bool = False, needs_datasets: bool = True
) -> CfgNode:
    """Return the complete configuration of a name, a file or a checkpoint.

    Args:
        name: as for --config-file; a checkpoint stands for the configuration of its training.
        overrides: alternating keys and values.
        trust: execute pickled code in the checkpoint, where it holds more than weights.
        needs_datasets: whether the datasets must exist. If not, and those of a checkpoint are missing, its
            configuration is returned as stored, which is complete.

    Raises:
        InputError: as `load_config`; or the checkpoint holds no configuration.
    """
    cfg = read_any(name, overrides, trust=trust)
    if not needs_datasets and names_checkpoint(name) and not _datasets_are_here(cfg):
        return cfg
    return complete_config(cfg)


def read_any(name: str | None, overrides: Sequence[str] = (), *, trust: bool = False) -> CfgNode:
    """Return the same without the values that depend on the datasets, which may be missing.

    Args:
        name: None for the defaults.
    """
    if name and names_checkpoint(name):
        return parse_config(held_text(name, trust=trust), name, overrides)
    return read_config(name, overrides)


def held_text(name: str, *, trust: bool = False) -> str:
    """Return the text of the configuration that a checkpoint holds; "" if `name` is no checkpoint."""
    if not names_checkpoint(name):
        return ""
    from segzoo.engine.model_config import held_config  # its import takes longer than the rest

    return held_config(name, trust=trust)


def _datasets_are_here(cfg: CfgNode) -> bool:
    if not all(map(is_dataset_file, cfg.DATASETS.FILES)):
        return False
    # The splits of a dataset file are registered with it.
    return bool(cfg.DATASETS.FILES) or all(map(dataset_metadata, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))
