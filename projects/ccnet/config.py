"""CCNet's own keys."""

from detectron2.config import CfgNode

from segzoo.config import COUNT, register_config


@register_config(rules={"MODEL.CCNET.RECURRENCE": COUNT})
def add_ccnet_config(cfg: CfgNode) -> None:
    """Add MODEL.CCNET, in place."""
    cfg.MODEL.CCNET = CfgNode()
    # Passes of the one criss-cross attention. Two let every pixel reach every other; pytorch-cv has one.
    cfg.MODEL.CCNET.RECURRENCE = 2
