"""The papers. Importing this package fills the registries."""

from detectron2.config import CfgNode

from . import mask2former, maskformer

__all__ = ["add_projects_config", "mask2former", "maskformer"]


def add_projects_config(cfg: CfgNode) -> CfgNode:
    """Adds the keys that belong to a single method, in place, and returns `cfg`.

    MaskFormer and Mask2Former use the shared keys of `segzoo.config` only.
    """
    return cfg
