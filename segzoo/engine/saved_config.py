"""The configuration as a run saves it, in OUTPUT_DIR/config.yaml and in its checkpoints: valid anywhere.

Paths are absolute, so that it can be read in any folder. Keys at their defaults that another Detectron2 lacks
are left out.
"""

import os

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from segzoo.config.extensions import drop_foreign_defaults
from segzoo.config.paths import map_paths
from segzoo.config.version_keys import drop_version_defaults
from segzoo.data.dataset_file import find_dataset_file, is_builtin
from segzoo.utils.errors import InputError


def saved_config(cfg: CfgNode) -> str:
    """Return the text of OUTPUT_DIR/config.yaml."""
    return _portable(cfg).dump()


def config_in_checkpoint(cfg: CfgNode, defaults: CfgNode) -> str:
    """Return the text for a checkpoint of the run. `defaults`: a new configuration."""
    saved = _portable(cfg)
    saved.OUTPUT_DIR, saved.MODEL.WEIGHTS = defaults.OUTPUT_DIR, ""
    saved.MODEL.DEVICE = defaults.MODEL.DEVICE
    return saved.dump()


def _portable(cfg: CfgNode) -> CfgNode:
    saved = cfg.clone()
    saved.defrost()
    map_paths(saved, _absolute)
    # Built-in datasets keep their names.
    saved.DATASETS.FILES = type(cfg.DATASETS.FILES)(
        name if _is_builtin(name) else path
        for name, path in zip(cfg.DATASETS.FILES, saved.DATASETS.FILES, strict=True)
    )
    drop_version_defaults(saved)
    drop_foreign_defaults(saved)
    # The classes of a checkpoint are registered only in this process.
    name = saved.DATASETS.CLASSES_FROM
    if name in MetadataCatalog and MetadataCatalog.get(name).get("described_as"):
        saved.DATASETS.CLASSES_FROM = ""
    return saved


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def _is_builtin(name: str) -> bool:
    try:
        return is_builtin(find_dataset_file(name))
    except InputError:
        return False
