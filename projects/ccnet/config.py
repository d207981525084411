"""CCNet's own keys."""

from detectron2.config import CfgNode


def add_ccnet_config(cfg: CfgNode) -> CfgNode:
    """Adds MODEL.CCNET, in place, and returns `cfg`."""
    cfg.MODEL.CCNET = CfgNode()
    # Passes of the one criss-cross attention. Two let every pixel reach every other; pytorch-cv has one.
    cfg.MODEL.CCNET.RECURRENCE = 2
    return cfg
