"""The keys that only UPerNet has."""

from detectron2.config import CfgNode as CN


def add_upernet_config(cfg: CN) -> CN:
    """Adds MODEL.UPERNET to `cfg`, in place, and returns it."""
    cfg.MODEL.UPERNET = CN()
    # Sides of the grids over which the coarsest level is averaged.
    cfg.MODEL.UPERNET.BINS = (1, 2, 3, 6)
    return cfg
