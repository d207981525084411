"""The configuration keys of CCNet."""

from detectron2.config import CfgNode

from segzoo.config import COUNT, register_config


@register_config(rules={"MODEL.CCNET.RECURRENCE": COUNT})
def add_ccnet_config(cfg: CfgNode) -> None:
    """Add MODEL.CCNET, in place."""
    cfg.MODEL.CCNET = CfgNode()
    # Passes of criss-cross attention with shared weights. Two connect every pair of pixels; pytorch-cv has
    # one.
    cfg.MODEL.CCNET.RECURRENCE = 2
